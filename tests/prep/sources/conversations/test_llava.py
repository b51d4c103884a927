"""LLaVA: entries read = records + rejected entries, for exactly the expected reasons."""

import pytest

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import (
    COCO_KINDS,
    good_llava_row,
    llava_row,
    turns,
    write_coco,
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
    records, tally = run_source(SOURCES["llava"], tmp_path, work=tmp_path / "work")
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
    records, tally = run_source(SOURCES["llava_dial"], tmp_path, work=tmp_path / "work")
    expect(tally, records=1, rows={"bad_text": 1})
    assert records[0].rounds[0].answer == "nul \0 in it"
    assert records[0].key == "llava_dial/conversation_58k/000000000002"


def test_the_file_of_another_data_set_is_an_error(tmp_path):
    write_coco(tmp_path, {1: "good"})
    write_json(tmp_path / "llava/conversation_58k.json", {"data": {}})
    with pytest.raises(ValueError, match=r"llava_dial: no rows in .*conversation_58k\.json"):
        run_source(SOURCES["llava_dial"], tmp_path, work=tmp_path / "work")
