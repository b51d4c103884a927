"""MIMIC-IT with embedded pictures: every entry is in a record or rejected with a reason."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES
from vchat.prep.sources.mimicit.embedded import read_embedding_entries
from vchat_testing.converting import examine, expect, run_source
from vchat_testing.raw_data import IMAGES, write_coco

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())


def picture(kind: str = "good", number: int = 0, path: str | None = None) -> dict:
    return {"bytes": IMAGES[kind](number), "path": path}


EMBEDDING = pa.schema(
    [
        ("id", pa.string()),
        ("instruction", pa.string()),
        ("answer", pa.string()),
        ("images", pa.list_(PICTURE)),
        ("related instructions", TEXTS),
    ]
)


def embedding_entry(
    entry_id: str, *images: dict | None, rel: tuple[str, ...] = (), answer: str = "A."
) -> dict:
    return {
        "id": entry_id,
        "instruction": "What changed?",
        "answer": answer,
        "images": list(images),
        "related instructions": list(rel),
    }


def write_embedding(data: Path, name: str, rows: list[dict], *, files: int = 2) -> None:
    """Write the entries as in the hub's joined configuration, in row groups of two."""
    folder = data / f"MIMIC-IT/{name}/any name"
    folder.mkdir(parents=True)
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size], schema=EMBEDDING)
        path = folder / f"part-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, path, row_group_size=2)


def test_entries_about_equal_pictures_are_one_dialogue(tmp_path):
    one, other = picture(number=1), picture("gif", 2)
    rows = [
        embedding_entry("I1", one, other, rel=("I2", "I9", "I3")),
        embedding_entry("I2", one, other, answer="Also a man."),
        embedding_entry("I3", other, one),
        embedding_entry("I4", one, one),
        embedding_entry("I5", one),
        embedding_entry("I6", one, None),
        embedding_entry("I7", one, {"bytes": None, "path": "SD_IMG_00001_2.png"}),
        embedding_entry("I8", one, picture("text")),
        embedding_entry("I10", one, picture("tiny")),
        embedding_entry("I11", one, other, answer=""),
        {**embedding_entry("I12"), "images": None},
        embedding_entry("I1", one, other),
    ]
    write_embedding(tmp_path, "SD", rows)
    records, tally = run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
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
def test_embedded_pictures_of_cgd_are_coco_photographs_where_their_path_says_so(
    tmp_path, has_photographs
):
    named = (
        picture(number=1, path="COCO_train2014_000000000014.jpg"),
        picture("gif", 2, path="CGD_IMG_0000000000001417.png"),
    )
    unnamed = (picture(number=3, path="0.png"), picture(number=4))
    rows = [
        embedding_entry("I1", *named),
        embedding_entry("I2", *unnamed),
        embedding_entry("I3", picture(), None),
    ]
    write_embedding(tmp_path, "CGD", rows)
    if has_photographs:
        write_coco(tmp_path, {14: "good", 1417: "good"})
    records, tally = run_source(SOURCES["otter_mimicit_cgd"], tmp_path, work=tmp_path / "work")
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
def test_an_embedded_picture_whose_path_is_its_id_has_the_key_of_the_other_packagings(
    tmp_path, name, path, key
):
    entry_id = f"{name}_INS_scene0000_activity2_round0"
    rows = [embedding_entry(entry_id, picture(number=1, path=path), picture("gif", 2))]
    write_embedding(tmp_path, name, rows, files=1)
    source = f"otter_mimicit_{name.lower()}"
    records, tally = run_source(SOURCES[source], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].images[0].key == key
    assert examine(source, tmp_path).status == "ready"


def test_embedding_files_are_ignored_where_pictures_and_instructions_have_their_own_files(tmp_path):
    write_embedding(
        tmp_path, "SD", [embedding_entry("I1", picture(number=1), picture(number=2))], files=1
    )
    folder = tmp_path / "MIMIC-IT/SD"
    ids = ["SD_IMG_00001_1", "SD_IMG_00001_2"]
    instructions = {"id": ["I1"], "instruction": ["Q"], "answer": ["Apart."], "images": [ids]}
    pq.write_table(pa.table(instructions), folder / "instructions.parquet")
    pictures = {"id": ids, "image": [picture(number=1), picture(number=2)]}
    pq.write_table(pa.table(pictures), folder / "pictures.parquet")
    records, tally = run_source(SOURCES["otter_mimicit_sd"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].rounds[0].answer == "Apart."
    assert records[0].images[0].file == "MIMIC-IT/SD/pictures.parquet"


def test_reading_embedding_entries_holds_a_few_row_groups_at_most(tmp_path):
    large = np.random.default_rng(0).bytes(90_000)
    rows = [
        embedding_entry(
            f"I{n}", *({"bytes": large + bytes([n, side]), "path": None} for side in (0, 1))
        )
        for n in range(250)
    ]
    folder = tmp_path / "MIMIC-IT/SD"
    folder.mkdir(parents=True)
    file = folder / "x.parquet"
    table = pa.Table.from_pylist(rows, schema=EMBEDDING)
    pq.write_table(table, file, row_group_size=25, compression="none")
    del rows, table
    before = pa.total_allocated_bytes()
    allocated = [
        pa.total_allocated_bytes() - before
        for _ in read_embedding_entries(file, columns=EMBEDDING.names, name="SD", data=tmp_path)
    ]
    assert len(allocated) == 250
    assert file.stat().st_size > 45_000_000
    assert max(allocated) < 15_000_000
