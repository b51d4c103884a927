"""Users' own data: entries read = records + rejected entries, for exactly the expected reasons."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vchat.prep.sources.conversations.own import own_source
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import turns, write_coco, write_image, write_json


def message(role, content):
    return {"role": role, "content": content}


def part(path):
    return {"type": "image_url", "image_url": {"url": path}}


TEXT = {"type": "text", "text": "Compare them."}
OWN_ROWS = [
    ({"id": "a", "image": "one.jpg", "conversations": turns("<image>\nQ?", "A.")}, None),
    (
        {
            "id": "b",
            "images": ["one.jpg", "two.jpg"],
            "conversations": turns("<image><image>\nQ?", "A."),
        },
        None,
    ),
    ({"id": "c", "conversations": turns("Only text?", "Yes."), "model": ""}, None),
    ({"id": "a", "image": "two.jpg", "conversations": turns("<image>\nQ?", "Same id.")}, None),
    ({"id": "d", "image": "one.jpg", "conversations": turns("<image>\nQ?", "A.")}, "duplicate"),
    (
        {
            "id": "e",
            "messages": [
                message("user", [part("one.jpg"), TEXT, part("file://two.jpg")]),
                message("assistant", "A boat."),
            ],
        },
        None,
    ),
    (
        {
            "id": "f",
            "images": ["one.jpg"],
            "messages": [message("user", "<image>\nQ?"), message("assistant", "B.")],
        },
        None,
    ),
    (
        {
            "messages": [
                message("user", "No id?"),
                message("assistant", [{"type": "text", "text": "No."}]),
            ]
        },
        None,
    ),
    (
        {
            "id": "g",
            "messages": [
                message("system", "Be brief."),
                message("user", "Q?"),
                message("assistant", "A."),
            ],
        },
        None,
    ),
    (
        {
            "id": "h",
            "messages": [
                message("user", [part("http://host/x.jpg"), TEXT]),
                message("assistant", "C."),
            ],
        },
        "missing_image",
    ),
    (
        {"id": "i", "messages": [message("user", [{"type": "audio"}]), message("assistant", "C.")]},
        "unsupported_media",
    ),
    (
        {"id": "j", "image": "../secret.jpg", "conversations": turns("<image>\nQ?", "D.")},
        "unsafe_path",
    ),
    (
        {"id": "k", "image": "absent.jpg", "conversations": turns("<image>\nQ?", "D.")},
        "missing_image",
    ),
    ({"id": "l", "text": "?"}, "bad_row"),
    ({"id": "m", "image": 7, "conversations": turns("<image>\nQ?", "D.")}, "bad_row"),
    (
        {
            "id": "n",
            "image": "coco/train2017/000000000001.jpg",
            "conversations": turns("<image>\nQ?", "E."),
        },
        None,
    ),
]


def write_own(folder: Path, packaging: str) -> Path:
    values = [row for row, _ in OWN_ROWS]
    folder.mkdir()
    path = folder / f"mine.{packaging}"
    if packaging == "json":
        write_json(path, values)
    else:
        path.write_text("\n".join(json.dumps(value) for value in values) + "\n\n")
    for number, name in enumerate(("one", "two")):
        write_image(folder / f"{name}.jpg", number=number)
    return path


@pytest.mark.parametrize("packaging", ["json", "jsonl"])
def test_own_data(tmp_path, packaging):
    path = write_own(tmp_path / "mine", packaging)
    write_coco(tmp_path / "data", {1: "good"})
    source = own_source("mine", path)
    roots = [path.parent, tmp_path / "data"]
    records, tally = run_source(source, path.parent, work=tmp_path / "work", roots=roots)
    count, rows = expected(OWN_ROWS)
    expect(tally, records=count, rows=rows)
    by_key = {record.key: record for record in records}
    assert [image.file for image in by_key["mine/e"].images] == ["one.jpg", "two.jpg"]
    assert by_key["mine/e"].rounds[0].question == "Compare them."
    assert by_key["mine/a~2"].rounds[0].answer == "Same id."
    assert by_key["mine/n"].images[0].key == "coco:1"
    assert by_key["mine/c"].images == ()
    assert by_key["mine/8"].rounds[0].answer == "No."


def test_own_parquet_of_the_same_shape(tmp_path):
    write_image(tmp_path / "one.jpg")
    rows = [{"id": "a", "image": "one.jpg", "conversations": turns("<image>\nQ?", "A.")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    source = own_source("mine", tmp_path / "mine.parquet")
    records, tally = run_source(source, tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].rounds[0].answer == "A."


@pytest.mark.parametrize("name", ["Mine", "a/b", "", "a b"])
def test_a_name_that_cannot_be_a_key_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="want lower-case letters"):
        own_source(name, tmp_path / "x.json")
