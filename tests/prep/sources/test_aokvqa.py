"""A-OKVQA: entries read = records + rejected entries, for exactly the expected reasons."""

import pytest

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import write_coco, write_json


def question(number, **changed):
    good = {
        "split": "train",
        "image_id": number,
        "question_id": f"Q{number}",
        "question": "What is the dog waiting for?",
        "choices": ["bus", "food"],
        "correct_choice_idx": 1,
        "rationales": ["The bowl is empty.", "It looks at the bowl", "The bowl is empty."],
    }
    return {**good, **changed}


AOKVQA_ROWS = [
    (question(1), None),
    (question(2, rationales=[], image_id="2"), None),
    (question(1), "duplicate"),
    (question(3), "missing_image"),
    (question(4, split="val"), "wrong_split"),
    (question(5, correct_choice_idx=2), "bad_row"),
    (question(5, rationales=None), "bad_row"),
    (question(5, image_id="x"), "bad_id"),
    (question(5, question=" "), "empty_text"),
    (question(5, choices=["bus", ""]), "empty_text"),
    ([], "bad_row"),
]


def test_aokvqa(tmp_path):
    write_coco(tmp_path, dict.fromkeys((1, 2, 5), "good"))
    path = tmp_path / "aokvqa/annotations/aokvqa_v1p0_train.json"
    write_json(path, [row for row, _ in AOKVQA_ROWS])
    records, tally = run_source(SOURCES["aokvqa"], tmp_path, work=tmp_path / "work")
    count, rows = expected(AOKVQA_ROWS)
    expect(tally, records=count, rows=rows)
    (round_,) = records[0].rounds
    assert round_.question.startswith("What is the dog waiting for? ")
    assert round_.answer == "food. The bowl is empty. It looks at the bowl."
    assert records[1].rounds[0].answer == "food."
    assert records[1].images[0].key == "coco:2"


def test_the_test_file_of_aokvqa_is_refused(tmp_path):
    write_coco(tmp_path, {1: "good"})
    path = tmp_path / "aokvqa/annotations/aokvqa_v1p0_train.json"
    write_json(path, [{"split": "test", "image_id": 1, "question": "?"}])
    with pytest.raises(ValueError, match="is the test file of A-OKVQA, which has no answers"):
        run_source(SOURCES["aokvqa"], tmp_path, work=tmp_path / "work")
