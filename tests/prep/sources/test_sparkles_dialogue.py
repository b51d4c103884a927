"""Sparkles: entries read = records + rejected entries, for exactly the expected reasons."""

from vchat.prep.sources.catalogue import SOURCES
from vchat_testing.converting import expect, expected, run_source
from vchat_testing.raw_data import write_image, write_json

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
    records, tally = run_source(SOURCES["sparkles_dialogue"], tmp_path, work=tmp_path / "work")
    count, reasons = expected(SPARKLES)
    expect(tally, records=count + 1, rows=reasons)
    first, second = records[0].rounds
    assert first.question == "How do Image 1 and Image 2 differ?"
    assert first.answer == "Image 1 shows NASA, Image 2 not; Image 1 is older than rule #3."
    assert [image.key for image in first.images] == ["cc_sbu:14", "cc_sbu:1417"]
    assert (second.question, second.answer) == ("And Image 3?", "Image 3 is new.")
    assert records[1].images[0].key == "vg:14"
    assert "secret" not in repr(records)
