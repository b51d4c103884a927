"""Images of a question stand in front where they open or close it, and at their places inside."""

import pytest

from vchat.shards.text.placing import PlacedText, place_images, place_parts


@pytest.mark.parametrize(
    "text, wanted, places",
    [
        ("<image>\nWhat is it?", "What is it?", ()),
        ("What is it?\n<image>", "What is it?", ()),
        ("What is it? \n <image> \n", "What is it?", ()),
        ("<image>\nWhat is it?\n<image>", "What is it?", ()),
        ("<image>\n<image>\nCompare.", "Compare.", ()),
        ("<image> <image>\r\nCompare.", "Compare.", ()),
        ("Compare.\n<image>\n<image>", "Compare.", ()),
        ("<image>What?", "What?", ()),
        ("<image>\n\tindented", "indented", ()),
        ("<image>", "", ()),
        ("Two\nlines", "Two\nlines", ()),
        ("a <image> b", "a  b", (2,)),
        ("a<image>b", "ab", (1,)),
        ("What is <image>", "What is ", (8,)),
        ("One\n<image>\nTwo", "One\n\nTwo", (4,)),
        ("First <image> then <image>?", "First  then ?", (6, 12)),
        ("First:\n<image>\nSecond:\n<image>", "First:\n\nSecond:\n", (7, 16)),
        ("<image> or <image>?", " or ?", (0, 4)),
        ("<image>\nA <image> B", "A  B", (-1, 2)),
        ("<image>\n<image> or <image>?", " or ?", (-1, 0, 4)),
        ("a <image><image> b", "a  b", (2, 2)),
    ],
)
def test_an_image_inside_a_text_stays_at_its_place(text, wanted, places):
    assert place_images(text.split("<image>")) == PlacedText(wanted, places)


def test_parts_stand_on_lines_of_their_own():
    assert place_parts(["One:", None, "Two:", None, "Q?"]) == PlacedText(
        "One:\n\nTwo:\n\nQ?", (5, 11)
    )
    assert place_parts([None, None, " Q? "]) == PlacedText("Q?")
    assert place_parts(["Q?", None]) == PlacedText("Q?")
    assert place_parts(["a", "b"]) == PlacedText("a\nb")
    assert place_parts([]) == PlacedText("")
