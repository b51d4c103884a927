"""What an entry says is in its record, or rejects it with a reason: nothing gets lost."""

import json

import pytest

from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.conversations.own import own_source
from vchat_testing.raw_data import turns

PICTURE = {"type": "image", "image": "a.jpg"}


def text(value):
    return {"type": "text", "text": value}


def llava(*values, **fields):
    """An entry in LLaVA's form; `fields` are added to it."""
    return {"id": "0", "conversations": turns(*values), **fields}


def openai(*contents, roles=("user", "assistant"), **fields):
    """An entry of `messages`; a content may be a whole message."""
    messages = [
        content if isinstance(content, dict) else {"role": roles[i % 2], "content": content}
        for i, content in enumerate(contents)
    ]
    return {"id": "0", "messages": messages, **fields}


def convert(tmp_path, entry):
    """Return the record of an entry; raises `Rejected`."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([entry]))
    (one,) = own_source("mine", path).read_entries(tmp_path)
    return one.convert().record


def answered(entry, number, **fields):
    """Add fields to a turn of an entry."""
    entry = json.loads(json.dumps(entry))
    (entry.get("conversations") or entry["messages"])[number] |= fields
    return entry


TWO = ("Q1?", "A1", "Q2?", "A2")
TWO_PICTURES = {"images": ["a.jpg", "b.jpg"]}


@pytest.mark.parametrize(
    "entry, question, places",
    [
        (llava("First <image> then <image>?", "A", **TWO_PICTURES), "First  then ?", (6, 12)),
        (
            llava("Image-1: <image>\nImage-2: <image>\nQ?", "A", **TWO_PICTURES),
            "Image-1: \nImage-2: \nQ?",
            (9, 19),
        ),
        (llava("<image>\nQ?", "A", image="a.jpg"), "Q?", ()),
        (llava("Q?\n<image>", "A", image="a.jpg"), "Q?", ()),
        (llava("<image_1>\n<image_2>\nQ?", "A", **TWO_PICTURES), "Q?", ()),
        (llava("<|image_0|> or <|image_1|>?", "A", **TWO_PICTURES), " or ?", (0, 4)),
        (
            openai([text("First:"), PICTURE, text("Second:"), PICTURE, text("Differ?")], "A"),
            "First:\n\nSecond:\n\nDiffer?",
            (7, 16),
        ),
        (openai([PICTURE, text("Q?")], "A"), "Q?", ()),
        (openai([text("Q?"), PICTURE], "A"), "Q?", ()),
        (openai("Is <image> red?", "A", image="a.jpg"), "Is  red?", (3,)),
        (openai([{"type": "image"}, text("Q?")], "A", images=["a.jpg"]), "Q?", ()),
        (
            openai([{"type": "image", "image": None, "path": "a.jpg"}, text("Q?")], "A"),
            "Q?",
            (),
        ),
    ],
)
def test_an_image_inside_a_question_keeps_its_place(tmp_path, entry, question, places):
    (only,) = convert(tmp_path, entry).rounds
    assert (only.question, only.places) == (question, places)
    assert len(only.images) == max(1, len(places)) or entry.get("images")


@pytest.mark.parametrize(
    "flag",
    [
        *({"loss": False}, {"weight": 0}, {"loss_weight": 0.0}, {"train": False}, {"Loss": False}),
        *({"training": False}, {"train_on_turn": False}, {"supervised": 0}, {"compute_loss": 0}),
    ],
)
@pytest.mark.parametrize("entry", [llava(*TWO), openai(*TWO)])
def test_an_answer_that_says_so_carries_no_loss(tmp_path, entry, flag):
    record = convert(tmp_path, answered(entry, 1, **flag))
    assert [one.supervised for one in record.rounds] == [False, True]
    (name, value), *_ = flag.items()
    with_loss = convert(tmp_path, answered(entry, 1, **{name: type(value)(1)}))
    assert all(one.supervised for one in with_loss.rounds)


@pytest.mark.parametrize(
    "entry",
    [
        llava("Q?", "A", system=" Be brief.\n"),
        llava("Q?", "A", system_prompt="Be brief."),
        llava("Q?", "A", System="Be brief."),
        llava("Q?", "A", system_instruction="Be brief."),
        {"conversations": [{"from": "system", "value": "Be brief."}, *turns("Q?", "A")]},
        openai({"role": "system", "content": "Be brief."}, "Q?", "A", roles=("assistant", "user")),
        openai("Q?", "A", system="Be brief."),
        openai(
            {"role": "developer", "content": [text("Be brief.")]},
            "Q?",
            "A",
            roles=("assistant", "user"),
            system="Be brief.",
        ),
    ],
)
def test_a_system_text_is_that_of_the_record(tmp_path, entry):
    assert convert(tmp_path, entry).system == "Be brief."


@pytest.mark.parametrize("entry", [llava("Q?", "A", system=""), llava("Q?", "A", system=None)])
def test_an_empty_system_text_is_none(tmp_path, entry):
    assert convert(tmp_path, entry).system is None


@pytest.mark.parametrize(
    "reason, entry",
    [
        ("placeholder_mismatch", openai("Q?", [text("A"), PICTURE])),
        ("unsupported_field", answered(llava(*TWO), 1, loss_mask=0)),
        ("unsupported_field", answered(llava(*TWO), 1, Mask=True)),
        ("unsupported_field", llava("Q?", "A", mask_history=True)),
        ("unsupported_field", llava("Q?", "A", loss_mask=[0, 1])),
        ("unsupported_field", openai([{**text("Q?"), "image": "a.jpg"}], "A")),
        ("unsupported_field", openai("Q?", [{**text("A"), "weight": 0}])),
        ("unsupported_media", llava("Q?", "A", depth="a.npy")),
        ("unsupported_media", llava("Q?", "A", Video_Frames=["a.jpg"])),
        ("placeholder_mismatch", openai([PICTURE, text("<image>\nQ?")], "A")),
        ("placeholder_mismatch", openai([PICTURE, text("Q?")], "A <image>")),
        ("placeholder_mismatch", openai([PICTURE, text("Q?")], "A", images=["b.jpg"])),
        ("placeholder_mismatch", openai([{"type": "image"}, text("Q?")], "A")),
        ("placeholder_mismatch", openai([PICTURE, text("Q?")], "A", "On <image>?", "B")),
        ("placeholder_mismatch", llava("<image>\nQ?", "A", image="a.jpg", system="<image>")),
        ("unsupported_media", llava("<video>\nQ?", "A", video="v.mp4")),
        ("unsupported_media", llava("Q?", "A", videos=["v.mp4"])),
        ("unsupported_media", llava("<image><audio>\nQ?", "A", image="a.jpg")),
        ("unsupported_media", llava("<video>\nQ?", "A")),
        ("unsupported_media", llava("<image>\nQ?", "A", image="a.jpg", image_2="b.jpg")),
        ("unsupported_media", llava("<image>\nIs <image_2> red?", "A", image="a.jpg")),
        ("unsupported_media", llava("Picture 1: <img>a.jpg</img>\nQ?", "A")),
        ("unsupported_media", openai([{"type": "input_audio"}, text("Q?")], "A")),
        ("unsupported_media", openai([{"type": "video", "video": "v"}, text("Q?")], "A")),
        ("unsupported_field", llava("Q?", "A", image_path="a.jpg")),
        ("unsupported_field", openai("Q?", "A", tools=[{"name": "f"}])),
        ("unsupported_field", answered(openai("Q?", "A"), 1, tool_calls=[{"id": 1}])),
        ("unsupported_field", answered(openai("Q?", "A"), 0, images=["a.jpg"])),
        ("unsupported_field", answered(openai("Q?", "A"), 1, weight=0.5)),
        ("unsupported_field", answered(openai("Q?", "A"), 1, weight=1, loss=False)),
        ("unsupported_field", answered(openai("Q?", "A"), 0, train=True)),
        ("unsupported_field", answered(openai("Q?", "A", system="x"), 0, system="x", mask=[1])),
        (
            "unsupported_field",
            {
                "conversations": [{"from": "system", "value": "One."}, *turns("Q?", "A")],
                "system": "Two.",
            },
        ),
        ("no_loss", answered(llava("Q?", "A"), 1, loss=False)),
        ("no_loss", llava("Q?", "A", weight=0)),
        ("bad_role_order", openai("Q?", {"role": "tool", "content": "A"})),
        ("bad_row", llava("<image>\nQ?", "A", image="a.jpg", images=["b.jpg"])),
        ("bad_row", openai("Q?", "A", conversations=turns("Q?", "A"))),
    ],
)
def test_what_is_not_honoured_rejects_the_entry(tmp_path, reason, entry):
    with pytest.raises(Rejected) as caught:
        convert(tmp_path, entry)
    assert caught.value.reason == reason, str(caught.value)


@pytest.mark.parametrize(
    "question",
    [
        "Use the `<video>` tag?",
        "What is <video src='a'></video>?",
        "<audio>a.ogg</audio> in HTML?",
        "Is 3 <img 5?",
    ],
)
def test_html_in_a_text_is_text(tmp_path, question):
    assert convert(tmp_path, llava(question, "A")).rounds[0].question == question


def test_null_fields_as_parquet_has_them_say_nothing(tmp_path):
    entry = llava("<image>\nQ?", "A", image="a.jpg", images=None, messages=[], system=None)
    entry |= {"video": None, "tools": "[]", "weight": None}
    record = convert(tmp_path, answered(entry, 1, loss=None, weight=None))
    assert record.rounds[0].supervised
    assert [image.file for image in record.images] == ["a.jpg"]
