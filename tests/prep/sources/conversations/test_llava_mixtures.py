"""LLaVA's larger files: entries read = records + rejected entries, by expected reasons."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat.prep.convert.resolve import resolve_source
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import MIXTURES, find_source
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import (
    IMAGES,
    good_llava_row,
    llava_row,
    turns,
    write_coco,
    write_image,
    write_json,
)

GOOD = turns("<image>\nWhat color is it?", "Red.")


def row(row_id: str, image: object = None, conversations: object = GOOD, **more: object) -> dict:
    return {"id": row_id, "image": image, "conversations": conversations, **more}


MIX_ROWS = [
    (row("000000000001", "coco/train2017/000000000001.jpg"), None),
    (
        row("000000000001", "coco/train2017/000000000001.jpg", turns("<image>\nB?", "Same id.")),
        None,
    ),
    (row("000000000001", "coco/train2017/000000000001.jpg"), "duplicate"),
    (row("g", "gqa/images/2354786.jpg"), None),
    (row("v", "vg/VG_100K_2/2354786.jpg", turns("Which?\n<image>", "The same photograph.")), None),
    (row("o", "ocr_vqa/images/0123456789.jpg", turns("<image>\nTitle?", "A GIF named jpg.")), None),
    (row("o2", "ocr_vqa/images/1437717772.jpg"), "missing_image"),
    (row("t", "textvqa/train_images/0054c91397f2fe05.jpg", turns("<image>\nText?", "No.")), None),
    ({"id": "wJ7", "model": "", "conversations": turns("Hello?", "Hi.", "More?", "Yes.")}, None),
    ({"id": "e1", "model": "", "conversations": []}, "bad_row"),
    ({"id": "e2", "conversations": turns("Hello?", "")}, "empty_text"),
    ({"id": "e3", "conversations": turns("a", "b")[::-1]}, "bad_role_order"),
    ({"id": "e4", "conversations": turns("a", "b", "c")}, "bad_role_order"),
    ({"id": "e5", "conversations": turns("<image>\nShown?", "No image.")}, "placeholder_mismatch"),
    (row("e6", "../../etc/passwd.jpg"), "unsafe_path"),
    (row("e7", {"bytes": "x"}), "bad_row"),
    (row("e8", "gqa/images/1.jpg"), "tiny_image"),
    (row("e9", "gqa/images/2.jpg"), "undecodable_image"),
    (row("e10", "what.jpg"), "bad_id"),
    ("not an object", "bad_row"),
]


def test_mix665k(tmp_path: Path) -> None:
    write_coco(tmp_path, {1: "good"})
    write_image(tmp_path / "gqa/images/2354786.jpg")
    write_image(tmp_path / "gqa/images/1.jpg", "tiny")
    write_image(tmp_path / "gqa/images/2.jpg", "text")
    write_image(tmp_path / "vg/VG_100K_2/2354786.jpg")
    write_image(tmp_path / "ocr_vqa/images/0123456789.jpg", "gif")
    write_image(tmp_path / "textvqa/train_images/0054c91397f2fe05.jpg", "exif")
    write_json(tmp_path / "llava/llava_v1_5_mix665k.json", [one for one, _ in MIX_ROWS])
    records, tally = run_source(MIXTURES["llava_v1_5_mix665k"], tmp_path, work=tmp_path / "work")
    count, rows = expected(MIX_ROWS)
    expect(tally, records=count, rows=rows)
    by_id = {record.key.partition("/")[2]: record for record in records}
    assert by_id["000000000001~2"].rounds[0].answer == "Same id."
    assert by_id["g"].images[0].key == by_id["v"].images[0].key == "vg:2354786"
    assert by_id["o"].images[0].key == "ocr_vqa:0123456789"
    assert by_id["000000000001"].images[0].key == "coco:1"
    assert by_id["wJ7"].images == ()
    assert len(by_id["wJ7"].rounds) == 2


@pytest.mark.parametrize("name", ["llava_instruct_150k", "llava_instruct_80k"])
def test_150k_and_80k_name_coco_photographs(tmp_path: Path, name: str) -> None:
    write_coco(tmp_path, {1: "good", 2: "good"})
    again = llava_row(1, "<image>\nWhere?", "On the left.")
    rows = [good_llava_row(1), again, good_llava_row(2), good_llava_row(1), good_llava_row(3)]
    write_json(tmp_path / f"llava/{name}.json", rows)
    records, tally = run_source(find_source(name), tmp_path, work=tmp_path / "work")
    expect(tally, records=3, rows={"duplicate": 1, "missing_image": 1})
    keys = [record.key for record in records]
    assert keys == [f"{name}/000000000001", f"{name}/000000000001~2", f"{name}/000000000002"]
    assert records[1].images[0].file == "coco/train2017/000000000001.jpg"


NEXT_ROWS = [
    (row("1", {"bytes": IMAGES["good"](1), "path": "coco/train2017/000000000001.jpg"}), None),
    (row("1", {"bytes": IMAGES["palette"](2), "path": None}, turns("<image>\nB?", "B.")), None),
    (row("3", {"bytes": IMAGES["text"](1), "path": "x.png"}), "undecodable_image"),
    (row("4", {"bytes": IMAGES["tiny"](1), "path": None}), "tiny_image"),
    (row("5", None, turns("Text alone?", "Yes.")), None),
    (row("6", {"bytes": None, "path": "lost.png"}), "undecodable_image"),
    (
        row("7", {"bytes": IMAGES["good"](1), "path": None}, turns("No place?", "No.")),
        "placeholder_mismatch",
    ),
]


def write_next(folder: Path, *, files: int = 2) -> None:
    """Write the rows in Parquet files, as the hub does."""
    folder.mkdir(parents=True)
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    turn = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    schema = pa.schema([("id", pa.string()), ("conversations", turn), ("image", picture)])
    rows = [one for one, _ in NEXT_ROWS]
    size = -(-len(rows) // files)
    for number in range(files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size], schema=schema)
        name = f"train-{number:05d}-of-{files:05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=2)


def test_llava_next_brings_its_pictures_in_parquet(tmp_path: Path) -> None:
    write_next(tmp_path / "llava_next/data")
    source = find_source("llava_next")
    records, tally = run_source(source, tmp_path, work=tmp_path / "work")
    rows = {"undecodable_image": 2, "tiny_image": 1, "placeholder_mismatch": 1}
    expect(tally, records=3, rows=dict(sorted(rows.items())))
    assert [record.key for record in records] == ["llava_next/1", "llava_next/1~2", "llava_next/5"]
    assert records[0].images[0].key == "coco:1"
    images = ImageFiles([tmp_path])
    shown = [images.read(image) for record in records for image in record.images]
    assert shown == [IMAGES["good"](1), IMAGES["palette"](2)]


def test_own_parquet_may_hold_its_pictures(tmp_path: Path) -> None:
    write_next(tmp_path / "mine", files=1)
    file = tmp_path / "mine/train-00000-of-00001.parquet"
    choice = SourceChoice(name="mine", file=str(file))
    chosen = resolve_source(choice, recipe=Recipe(data=str(tmp_path)))
    records, tally = run_source(chosen.source, file.parent, work=tmp_path / "work")
    assert tally["rows"] == len(NEXT_ROWS)
    assert len(records) == 3
    assert ImageFiles([file.parent]).read(records[1].images[0]) == IMAGES["palette"](2)
