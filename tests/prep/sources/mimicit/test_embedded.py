"""Packagings that bring their pictures in Parquet: every row is a record or counted as lost."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.convert.doctor import Finding, examine_source
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import resolve_source
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES
from vchat.prep.sources.mimicit.embedded import read_embedding_entries
from vchat_testing.converting import converted, expect
from vchat_testing.raw_data import IMAGES, write_coco

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())
BOOKS = pa.schema(
    [
        ("image", PICTURE),
        ("image_id", pa.string()),
        ("questions", TEXTS),
        ("answers", TEXTS),
        ("ocr_tokens", TEXTS),
        ("title", pa.string()),
        ("image_width", pa.int32()),
        ("image_url", pa.string()),
        ("set_name", pa.string()),
    ]
)


def picture(kind: str = "good", number: int = 0, path: str | None = None) -> dict:
    return {"bytes": IMAGES[kind](number), "path": path}


def book(image_id: str | None, **changed: object) -> dict:
    good = {
        "image": picture(),
        "image_id": image_id,
        "questions": ["Who?", "What?"],
        "answers": ["A", "B"],
        "ocr_tokens": ["A"],
        "title": "B",
        "image_width": 20,
        "image_url": "http://x/1.jpg",
        "set_name": "train",
    }
    return {**good, **changed}


def write_books(folder: Path) -> None:
    """Write 13 books in two splits, of which three can be used; and a file of something else."""
    train = [
        book("0000000001"),
        book("000000002X", image=picture("gif", 2), set_name=None),
        book("0000000003", answers=["", "B"]),
        book("0000000004", answers=["", None]),
        book("0000000005", set_name="test"),
        book("0000000006", image=picture("tiny")),
        book("0000000007", image=None),
        book("0000000008", image=picture("text")),
        book("0000000009", answers=["A"]),
        book("0000000010", questions=None),
        book(None),
        book("0000000001"),
    ]
    folder.mkdir(parents=True)
    names = {"train-00000-of-00001": train, "validation-00000-of-00001": [book("9", set_name="")]}
    for name, rows in names.items():
        table = pa.Table.from_pylist(rows, schema=BOOKS)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=5)
    pq.write_table(pa.table({"image": [b"x"], "id": ["x"]}), folder / "train-other.parquet")


def test_ocr_vqa_in_parquet_keeps_the_training_split_and_reads_covers_in_place(tmp_path):
    write_books(tmp_path / "OCR_VQA/data")
    records, tally = converted(SOURCES["ocr_vqa"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 1,
        "bad_row": 2,
        "duplicate": 1,
        "empty_text": 1,
        "missing_image": 1,
        "tiny_image": 1,
        "undecodable_image": 1,
        "wrong_split": 2,
    }
    expect(tally, records=3, rows=rejected, pairs={"empty_text": 1})
    assert [record.key for record in records] == [
        "ocr_vqa/0000000001",
        "ocr_vqa/000000002X",
        "ocr_vqa/0000000003",
    ]
    assert records[1].images[0].key == "ocr_vqa:000000002X"
    assert ImageFiles([tmp_path]).read(records[1].images[0]) == IMAGES["gif"](2)
    assert [round_.answer for round_ in records[2].rounds] == ["B"]


def test_doctor_finds_ocr_vqa_in_parquet_and_counts_its_books(tmp_path):
    write_books(tmp_path / "OCR_VQA/data")
    (tmp_path / "OCR_VQA/data/train-other.parquet").unlink()
    found = finding("ocr_vqa", tmp_path)
    assert (found.status, found.num_entries, found.trial.num_records) == ("ready", 13, 4)
    assert [need.packaging for need in found.needs] == ["Parquet", "Parquet"]


def finding(name: str, data: Path) -> Finding:
    """Return what `vchat-prep doctor` finds."""
    chosen = resolve_source(SourceChoice(name=name), recipe=Recipe(data=str(data)))
    return examine_source(chosen, sample=20, max_images=8, on_entry=lambda: None)


JOINED = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("answer", pa.string()),
        ("images", pa.list_(PICTURE)),
        ("related instructions", TEXTS),
    ]
)


def joined(
    row_id: str, *images: dict | None, rel: tuple[str, ...] = (), answer: str = "A."
) -> dict:
    return {
        "id": row_id,
        "instruction": "What changed?",
        "answer": answer,
        "images": list(images),
        "related instructions": list(rel),
    }


def write_joined(data: Path, name: str, rows: list[dict], *, files: int = 2) -> None:
    """Write the rows as the hub's joined configuration has them, in row groups of two."""
    folder = data / f"MIMIC-IT/{name}/any name"
    folder.mkdir(parents=True)
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size], schema=JOINED)
        path = folder / f"part-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=2)


def test_joined_rows_about_equal_pictures_are_one_dialogue(tmp_path):
    one, other = picture(number=1), picture("gif", 2)
    rows = [
        joined("I1", one, other, rel=("I2", "I9", "I3")),
        joined("I2", one, other, answer="Also a man."),
        joined("I3", other, one),
        joined("I4", one, one),
        joined("I5", one),
        joined("I6", one, None),
        joined("I7", one, {"bytes": None, "path": "SD_IMG_00001_2.png"}),
        joined("I8", one, picture("text")),
        joined("I10", one, picture("tiny")),
        joined("I11", one, other, answer=""),
        {**joined("I12"), "images": None},
        joined("I1", one, other),
    ]
    write_joined(tmp_path, "SD", rows)
    records, tally = converted(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_row": 1,
        "duplicate": 1,
        "empty_text": 1,
        "missing_image": 2,
        "placeholder_mismatch": 2,
        "tiny_image": 1,
        "undecodable_image": 1,
    }
    expect(tally, records=2, rows=rejected)
    assert [record.key for record in records] == ["otter_mimicit_sd/I1", "otter_mimicit_sd/I3"]
    assert [round_.answer for round_ in records[0].rounds] == ["A.", "Also a man."]
    first, second = records[0].images
    assert (first.member, second.member) == ("0/images/0", "0/images/1")
    assert [image.key for image in records[1].images] == [second.key, first.key]
    assert [ImageFiles([tmp_path]).read(image) for image in records[1].images] == [
        IMAGES["gif"](2),
        IMAGES["good"](1),
    ]
    assert records[0].marks == ("resampled_224",)


@pytest.mark.parametrize("has_photographs", [False, True])
def test_joined_pictures_of_cgd_are_coco_photographs_where_their_path_says_so(
    tmp_path, has_photographs
):
    named = (
        picture(number=1, path="COCO_train2014_000000000014.jpg"),
        picture("gif", 2, path="CGD_IMG_0000000000001417.png"),
    )
    unnamed = (picture(number=3, path="0.png"), picture(number=4))
    rows = [joined("I1", *named), joined("I2", *unnamed), joined("I3", picture(), None)]
    write_joined(tmp_path, "CGD", rows)
    if has_photographs:
        write_coco(tmp_path, {14: "good", 1417: "good"})
    records, tally = converted(SOURCES["otter_mimicit_cgd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=2, rows={"missing_image": 1})
    assert tally["repairs"] == {"long_id": 1}
    assert [image.key for image in records[0].images] == ["coco:14", "coco:1417"]
    assert records[0].images[0].file.startswith("coco/") == has_photographs
    assert records[0].marks == (() if has_photographs else ("resampled_224",))
    assert {image.key[:8] for image in records[1].images} == {"mimicit:"}
    assert ImageFiles([tmp_path]).read(records[1].images[1]) == IMAGES["good"](4)


@pytest.mark.parametrize(
    "name, path, key",
    [
        ("SN", "SN_IMG_scene0000_00_color_000100.png", "scannet:SN_IMG_scene0000_color_000100"),
        (
            "TVC",
            "TVC_IMG_castle_s01e01_seg01_clip_00_00007.png",
            "tvqa:castle/s01e01_seg01_clip_00/7",
        ),
        ("VST", "VST_IMG_123.png", "flickr:123"),
        ("SD", "SD_IMG_00001_1.png", "mimicit:SD_IMG_00001_1"),
    ],
)
def test_a_joined_picture_whose_path_is_its_id_has_the_key_of_the_other_packagings(
    tmp_path, name, path, key
):
    row_id = f"{name}_INS_scene0000_activity2_round0"
    rows = [joined(row_id, picture(number=1, path=path), picture("gif", 2))]
    write_joined(tmp_path, name, rows, files=1)
    source = f"otter_mimicit_{name.lower()}"
    records, tally = converted(SOURCES[source], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].images[0].key == key
    assert finding(source, tmp_path).status == "ready"


def test_joined_rows_are_left_aside_where_pictures_and_instructions_lie_apart(tmp_path):
    write_joined(tmp_path, "SD", [joined("I1", picture(number=1), picture(number=2))], files=1)
    folder = tmp_path / "MIMIC-IT/SD"
    ids = ["SD_IMG_00001_1", "SD_IMG_00001_2"]
    told = {"id": ["I1"], "instruction": ["Q"], "answer": ["Apart."], "images": [ids]}
    pq.write_table(pa.table(told), folder / "instructions.parquet")
    shown = {"id": ids, "image": [picture(number=1), picture(number=2)]}
    pq.write_table(pa.table(shown), folder / "pictures.parquet")
    records, tally = converted(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].rounds[0].answer == "Apart."
    assert records[0].images[0].file == "MIMIC-IT/SD/pictures.parquet"


def test_a_pass_over_joined_rows_never_holds_more_than_a_few_row_groups(tmp_path):
    large = np.random.default_rng(0).bytes(90_000)
    rows = [
        joined(f"I{n}", *({"bytes": large + bytes([n, side]), "path": None} for side in (0, 1)))
        for n in range(250)
    ]
    folder = tmp_path / "MIMIC-IT/SD"
    folder.mkdir(parents=True)
    file = folder / "x.parquet"
    table = pa.Table.from_pylist(rows, schema=JOINED)
    pq.write_table(table, file, row_group_size=25, compression="none")
    del rows, table
    before = pa.total_allocated_bytes()
    held = [
        pa.total_allocated_bytes() - before
        for _ in read_embedding_entries(file, columns=JOINED.names, name="SD", data=tmp_path)
    ]
    assert len(held) == 250
    assert file.stat().st_size > 45_000_000
    assert max(held) < 15_000_000
