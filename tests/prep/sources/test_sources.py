"""For every source: rows read = records + rows rejected for exactly the expected reasons."""

import json
from pathlib import Path

import pytest

from vchat.base.cli import WrongUse
from vchat.prep.convert.convert import ImageLimits, convert_source
from vchat.prep.raw.image_files import ImageFiles
from vchat.prep.sources.catalogue import SOURCES, find_source
from vchat.prep.sources.conversations.own import own_source
from vchat_testing.converting import converted, expect, expected
from vchat_testing.raw_data import (
    COCO_KINDS,
    good_llava_row,
    llava_row,
    turns,
    write_coco,
    write_image,
    write_json,
)

LLAVA_ROWS = [
    (good_llava_row(1), None),
    (llava_row(2, "What?\n<image>", "A GIF named jpg."), None),
    (llava_row(3, "<image>\nWhat?", "Too small."), "tiny_image"),
    (llava_row(4, "<image>\nWhat?", "Cut off; decoding will tell."), None),
    (llava_row(5, "<image>\nWhat?", "16 bits."), None),
    (llava_row(6, "<image>\nFirst\nline?", "One.", "And\nmore?", "Two."), None),
    (llava_row(7, "<image>\nWhat?", "Declares 60000 x 60000."), "huge_image"),
    (llava_row(8, "<image>\nWhat?", "A web page."), "undecodable_image"),
    (llava_row(99, "<image>\nWhere?", "Nowhere."), "missing_image"),
    (llava_row(1, "<image>\nAgain?", "The same id."), "duplicate"),
    (llava_row(9, "<image>\nWhat?", "  \n"), "empty_text"),
    (llava_row(9, "<image>", "No question."), "empty_text"),
    (llava_row(9, "<image>\nTwice <image>?", "Yes."), "placeholder_mismatch"),
    (llava_row(9, "No place for it?", "Yes."), "placeholder_mismatch"),
    (llava_row(9, "Late?", "Yes.", "<image>\nMore?", "In round two."), None),
    (llava_row(9, "<image>\nOdd?", "Yes.", "And?"), "bad_role_order"),
    ({**llava_row(9), "conversations": turns("a", "b")[::-1]}, "bad_role_order"),
    (llava_row(9), "bad_row"),
    ({"id": "x", "image": "../../etc/passwd", "conversations": turns("<image>", "b")}, "bad_id"),
    ({"id": "x", "conversations": turns("No image", "b")}, "bad_id"),
    ({"id": "x", "image": "000000000009.jpg", "conversations": "text"}, "bad_row"),
    ("not an object", "bad_row"),
]


def test_llava(tmp_path):
    write_coco(tmp_path, COCO_KINDS)
    write_json(tmp_path / "llava/detail_23k.json", [row for row, _ in LLAVA_ROWS])
    write_json(tmp_path / "llava/complex_reasoning_77k.json", [good_llava_row(1)])
    records, tally = converted(SOURCES["llava"], tmp_path, work=tmp_path / "work")
    count, rows = expected(LLAVA_ROWS)
    expect(tally, records=count + 1, rows=rows)
    assert records[0].key == "llava/detail_23k/000000000001"
    assert records[-1].key == "llava/complex_reasoning_77k/000000000001"
    assert records[0].images[0].key == "coco:1"
    assert [len(round_.images) for round_ in records[-2].rounds] == [0, 1]
    assert records[4].rounds[0].question == "First\nline?"


def test_llava_text_that_is_not_utf8_is_rejected_and_the_rest_kept(tmp_path):
    write_coco(tmp_path, {1: "good", 2: "good"})
    rows = [
        llava_row(1, "<image>\nA?", "broken QQ text"),
        llava_row(2, "<image>\nB?", "nul \0 in it"),
    ]
    write_json(tmp_path / "llava/conversation_58k.json", rows)
    path = tmp_path / "llava/conversation_58k.json"
    path.write_bytes(path.read_bytes().replace(b"QQ", b"\xff\xfe"))
    records, tally = converted(SOURCES["llava_dial"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"bad_text": 1})
    assert records[0].rounds[0].answer == "nul \0 in it"
    assert records[0].key == "llava_dial/conversation_58k/000000000002"


def book(**changed):
    good = {"imageURL": "http://x/1.jpg", "questions": ["Who?", "What?"], "answers": ["A", "B"]}
    return {**good, "title": "B", "split": 1, **changed}


OCR_BOOKS = {
    "0000000001": (book(), None),
    "000000002X": (book(imageURL="http://x/1.gif"), None),
    "0000000003": (book(answers=["", "B"]), None),
    "0000000004": (book(answers=["", None]), "empty_text"),
    "0000000005": (book(split=2), "wrong_split"),
    "0000000006": (book(split=3), "wrong_split"),
    "0000000007": (book(), "tiny_image"),
    "0000000008": (book(), "missing_image"),
    "0000000009": (book(answers=["A"]), "bad_row"),
    "0000000010": (book(questions="Who?"), "bad_row"),
    "0000000011": ("no object", "bad_row"),
    "../0000001": (book(), "missing_image"),
    "0000000012": (book(answers=["A", 1998]), None),
    "0000000013": (book(questions=["Who?", ["list"]]), "bad_row"),
}


def test_ocr_vqa(tmp_path):
    folder = tmp_path / "OCR_VQA/images"
    for number, name in enumerate(OCR_BOOKS):
        if OCR_BOOKS[name][1] != "missing_image":
            write_image(folder / f"{name}.jpg", "gif" if number % 2 else "good", number=number)
    write_image(folder / "0000000007.jpg", "tiny")
    write_image(folder / "000000002X.gif", "gif")
    write_json(tmp_path / "OCR_VQA/dataset.json", {key: one for key, (one, _) in OCR_BOOKS.items()})
    records, tally = converted(SOURCES["ocr_vqa"], tmp_path, work=tmp_path / "work")
    count, rows = expected(list(OCR_BOOKS.values()))
    expect(tally, records=count, rows=rows, pairs={"empty_text": 1})
    assert [record.record_id for record in records][:2] == ["0000000001", "000000002X"]
    assert records[1].images[0].file == "OCR_VQA/images/000000002X.gif"
    assert [round_.answer for round_ in records[2].rounds] == ["B"]
    assert len(records[2].rounds[0].images) == 1
    assert records[3].rounds[1].answer == "1998"


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
        "bad_role_order",
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
        "bad_row",
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
    records, tally = converted(source, path.parent, work=tmp_path / "work", roots=roots)
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_image(tmp_path / "one.jpg")
    rows = [{"id": "a", "image": "one.jpg", "conversations": turns("<image>\nQ?", "A.")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    source = own_source("mine", tmp_path / "mine.parquet")
    records, tally = converted(source, tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={})
    assert records[0].rounds[0].answer == "A."


@pytest.mark.parametrize("name", ["Mine", "a/b", "", "a b"])
def test_a_name_that_cannot_be_a_key_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="want lower-case letters"):
        own_source(name, tmp_path / "x.json")


def test_a_converted_source_is_found_again_until_its_inputs_change(tmp_path):
    write_coco(tmp_path, {1: "good"})
    path = tmp_path / "llava/conversation_58k.json"
    write_json(path, [good_llava_row(1)])
    rows_read = []
    for _ in range(2):
        images = ImageFiles([tmp_path])
        count = lambda: rows_read.append(1)  # noqa: E731
        convert_source(
            SOURCES["llava_dial"],
            data=tmp_path,
            images=images,
            work=tmp_path / "w",
            limits=ImageLimits(image_size=224),
            on_entry=count,
        )
    assert len(rows_read) == 1
    write_json(path, [good_llava_row(1), good_llava_row(2)])
    _, tally = converted(SOURCES["llava_dial"], tmp_path, work=tmp_path / "w")
    expect(tally, records=1, rows={"missing_image": 1})


def test_the_file_of_another_data_set_is_an_error(tmp_path):
    write_coco(tmp_path, {1: "good"})
    write_json(tmp_path / "llava/conversation_58k.json", {"data": {}})
    with pytest.raises(ValueError, match=r"llava_dial: no rows in .*conversation_58k\.json"):
        converted(SOURCES["llava_dial"], tmp_path, work=tmp_path / "work")


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(WrongUse, match="did you mean 'otter_mimicit_cgd'"):
        find_source("otter_mimic_cgd")


def test_all_thirteen_names_are_listed_with_their_layout():
    names = (
        "aokvqa coco_caption llava llava_dial llava_otter_blend minigpt4 ocr_vqa otter_mimicit_cgd"
        " otter_mimicit_sd otter_mimicit_sn otter_mimicit_tvc otter_mimicit_vst sparkles_dialogue"
    )
    assert list(SOURCES) == names.split()
    assert all(source.needs and source.licence for source in SOURCES.values())
