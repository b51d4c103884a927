"""A-OKVQA, COCO captions, MiniGPT-4 and Sparkles: rows read = records + expected rejections."""

import pytest

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import converted, expect, expected
from vchat_testing.raw_data import write_coco, write_image, write_json


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
    records, tally = converted(SOURCES["aokvqa"], tmp_path, work=tmp_path / "work")
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
        converted(SOURCES["aokvqa"], tmp_path, work=tmp_path / "work")


def photo(number, *captions, split="train", release="train2014", **changed):
    sentences = [{"raw": raw, "sentid": 10 * number + i} for i, raw in enumerate(captions)]
    name = f"COCO_{release}_{number:012d}.jpg"
    found = {"filepath": release, "filename": name, "split": split, "sentences": sentences}
    return {**found, "cocoid": number, **changed}


def test_coco_caption(tmp_path):
    write_image(tmp_path / "coco/2014/COCO_train2014_000000000001.jpg")
    write_image(tmp_path / "coco/val2014/COCO_val2014_000000000002.jpg")
    write_coco(tmp_path, {3: "good"})
    images = [
        photo(1, "A red boat. \n", "a boat", "A BOAT ON WATER"),
        photo(2, "Two.", "", split="restval", release="val2014"),
        photo(3, "Under its 2017 name."),
        photo(4, "Missing.", "Twice."),
        photo(5, "Held back.", split="test", release="val2014"),
        photo(6, "Held back.", split="val"),
        photo(1, sentences={"raw": "One object.", "sentid": 99}),
        photo(1, sentences=[]),
        photo(1, "A name of another kind.", filename="boat.jpg"),
        "no object",
    ]
    write_json(tmp_path / "coco_caption/dataset.json", {"images": images, "dataset": "coco"})
    records, tally = converted(SOURCES["coco_caption"], tmp_path, work=tmp_path / "work")
    rejected = {
        "bad_id": 1,
        "bad_row": 1,
        "empty_text": 2,
        "missing_image": 2,
        "wrong_split": 2,
    }
    expect(tally, records=6, rows=rejected)
    answers = [record.rounds[0].answer for record in records]
    assert answers[:3] == ["A red boat.", "a boat.", "A boat on water."]
    assert {image.key for record in records for image in record.images} == {
        "coco:1",
        "coco:2",
        "coco:3",
    }
    assert records[0].key == "coco_caption/10"


def test_minigpt4(tmp_path):
    for name in ("17", "018"):
        write_image(tmp_path / f"cc_sbu_align/image/{name}.jpg")
    rows = [
        ({"image_id": "17", "caption": " The image shows a bridge. "}, None),
        ({"image_id": "018", "caption": "Zeros are kept."}, None),
        ({"image_id": 17, "caption": "A number, and a duplicate."}, "duplicate"),
        ({"image_id": "19", "caption": "Missing."}, "missing_image"),
        ({"image_id": "../17", "caption": "Climbs."}, "bad_id"),
        ({"image_id": "17", "caption": ""}, "empty_text"),
        ({"caption": "No id."}, "bad_id"),
        (None, "bad_row"),
    ]
    path = tmp_path / "cc_sbu_align/filter_cap.json"
    write_json(path, {"annotations": [row for row, _ in rows]})
    records, tally = converted(SOURCES["minigpt4"], tmp_path, work=tmp_path / "work")
    count, reasons = expected(rows)
    expect(tally, records=count, rows=reasons)
    assert records[0].images[0].key == "cc_sbu:17"
    assert records[0].rounds[0].answer == "The image shows a bridge."
    assert records[1].images[0].file == "cc_sbu_align/image/018.jpg"


TAG = "<Img><ImageHere></Img>"


def user(content, *ids):
    images = [{"image_id": image_id, "caption": "secret"} for image_id in ids]
    return {"role": "user", "content": content, "images": images}


def assistant(content):
    return {"role": "assistant", "content": content}


GOOD = [
    user(f"How do IMAGE#14{TAG} and IMAGE#1417{TAG} differ?", "1417", "14"),
    assistant("image#14 shows NASA, IMAGE #1417 not; #14 is older than rule #3."),
    user(f"And IMAGE#9{TAG}?", 9),
    assistant("Image#9 is new."),
]
SPARKLES = [
    (GOOD, None),
    ([GOOD[0], assistant("IMAGE#77 is unknown.")], "placeholder_mismatch"),
    (
        [user(f"IMAGE#14{TAG}?", "14", "9"), assistant("One tag, two images.")],
        "placeholder_mismatch",
    ),
    ([user(f"{TAG} IMAGE#14?", "14"), assistant("The tag is before it.")], "placeholder_mismatch"),
    ([user(f"IMAGE#5{TAG}?", "5"), assistant("Missing.")], "missing_image"),
    ([user(f"IMAGE#14{TAG}?", "14"), user("?"), assistant("!")], "bad_role_order"),
    ([user(f"IMAGE#14{TAG}?", "14"), assistant("")], "empty_text"),
    ([user(f"IMAGE#14{TAG}?", "../14"), assistant("?")], "bad_id"),
    ("text", "bad_row"),
]


def test_sparkles_dialogue(tmp_path):
    for part, rows in (("CC", SPARKLES), ("VG", [(GOOD, None)])):
        folder = tmp_path / f"sparkles/SparklesDialogue{part}"
        for name in ("14", "1417", "9"):
            write_image(folder / f"images/{name}.jpg")
        dialogues = [{"dialogue": row, "raw": [{"prompt": "secret"}]} for row, _ in rows]
        write_json(folder / f"annotations/SparklesDialogue{part}.json", dialogues)
    records, tally = converted(SOURCES["sparkles_dialogue"], tmp_path, work=tmp_path / "work")
    count, reasons = expected(SPARKLES)
    expect(tally, records=count + 1, rows=reasons)
    first, second = records[0].rounds
    assert first.question == "How do Image 1 and Image 2 differ?"
    assert first.answer == "Image 1 shows NASA, Image 2 not; Image 1 is older than rule #3."
    assert [image.key for image in first.images] == ["cc_sbu:14", "cc_sbu:1417"]
    assert (second.question, second.answer) == ("And Image 3?", "Image 3 is new.")
    assert records[1].images[0].key == "vg:14"
    assert "secret" not in repr(records)
