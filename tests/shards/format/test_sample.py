"""A sample and its members: the same both ways, and malformed members are refused."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.shards.format.dialogue_text import dialogue_text
from vchat.shards.format.sample import StoredRound, decode_sample, encode_sample
from vchat.shards.text.template import Text, VisualChatTemplate
from vchat.shards.text.tokenizer import TextTokenizer
from vchat_testing.toy import sample_of, toy_image, toy_sample, toy_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return TextTokenizer.load(toy_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_members_are_named_sorted_and_readable_with_standard_tools(tokenizer):
    sample = toy_sample(3, tokenizer, num_images=2)
    found = encode_sample(sample)
    assert [name for name, _ in found] == ["0.jpg", "1.jpg", "json", "mask.npy", "tokens.npy"]
    by_name = dict(found)
    assert by_name["1.jpg"] == sample.images[1].data
    assert np.load(io.BytesIO(by_name["tokens.npy"])).tolist() == sample.ids.tolist()
    assert np.load(io.BytesIO(by_name["mask.npy"])).dtype == np.bool_
    assert json.loads(by_name["json"]) == {
        "key": "toy/3",
        "source": "toy",
        "split": "train",
        "records": [
            {
                "key": "toy/3",
                "file": "toy.json",
                "record_id": "3",
                "licence": "none",
                "first_round": 0,
                "num_rounds": 2,
            }
        ],
        "rounds": [
            {"images": [0], "question": "What color is square 3?", "answer": "The square is blue."},
            {
                "images": [1],
                "question": "What color is square 3?",
                "answer": "The square is yellow.",
            },
        ],
        "images": [
            {"key": "toy:30", "file": "0.jpg", "size": [40, 32], "original_size": [80, 64]},
            {"key": "toy:31", "file": "1.jpg", "size": [40, 32], "original_size": [80, 64]},
        ],
    }


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=3),
    extensions=st.lists(st.sampled_from(["jpg", "png", "webp"]), max_size=12),
)
def test_a_sample_survives_its_members(tokenizer, texts, extensions):
    images = tuple(toy_image(i, extension=extension) for i, extension in enumerate(extensions))
    rounds = [StoredRound(images=(), question=q, answer=a) for q, a in texts]
    rounds[0] = replace(rounds[0], images=tuple(range(len(images))))
    sample = sample_of("toy/1", tokenizer, tuple(rounds), images)
    again = decode_sample(dict(encode_sample(sample)), name="here")
    assert encode_sample(again) == encode_sample(sample)
    assert (again.rounds, again.images, again.records) == (
        sample.rounds,
        sample.images,
        sample.records,
    )


@pytest.mark.parametrize(
    "shown, message",
    [
        (((1,), (0,)), r"sample toy/1: rounds show images \[1, 0\]; wanted each of the 2 once"),
        (((0,), ()), r"show images \[0\]"),
        (((0, 1), (1,)), r"show images \[0, 1, 1\]"),
    ],
)
def test_rounds_must_show_each_image_once_and_in_order(tokenizer, shown, message):
    images = (toy_image(0), toy_image(1))
    rounds = tuple(StoredRound(images=i, question="q", answer="a") for i in shown)
    with pytest.raises(ValueError, match=message):
        sample_of("toy/1", tokenizer, rounds, images)


def test_ids_and_mask_must_have_one_length(tokenizer):
    sample = toy_sample(0, tokenizer)
    with pytest.raises(ValueError, match=r"sample toy/0: ids of shape .* wanted equal lengths"):
        replace(sample, supervised=sample.supervised[1:])


def test_an_unknown_image_format_is_refused(tokenizer):
    sample = toy_sample(0, tokenizer, num_images=1)
    spoilt = replace(sample, images=(replace(sample.images[0], extension="gif"),))
    with pytest.raises(ValueError, match="image 0 has extension 'gif'; wanted one of jpg, png"):
        encode_sample(spoilt)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens.npy": None}, "here: missing 'tokens.npy'"),
        ({"1.jpg": None}, "here: missing '1.jpg'"),
        ({"2.jpg": b""}, r"here: superfluous members \['2.jpg'\]"),
        ({"json": b"{"}, "here: json is not JSON: Expecting property name"),
        ({"json": b"[]"}, r"here: json: the document is \[\], wanted an object"),
        ({"tokens.npy": npy(np.zeros(3))}, "here: tokens.npy: an array of <f8, wanted <i4"),
        ({"tokens.npy": npy(np.array([{}]))}, "here: tokens.npy: a npy header that is not of"),
        ({"tokens.npy": b"junk"}, "here: tokens.npy: not a npy file"),
        ({"mask.npy": npy(np.zeros(3, bool))}, "wanted equal lengths"),
    ],
)
def test_malformed_members_are_refused_naming_the_sample(tokenizer, change, message):
    found = dict(encode_sample(toy_sample(0, tokenizer))) | change
    found = {name: data for name, data in found.items() if data is not None}
    with pytest.raises(ValueError, match=message):
        decode_sample(found, name="here")


def test_places_loss_and_a_system_text_are_stored_only_where_they_say_something(tokenizer):
    sample = toy_sample(3, tokenizer, num_images=2)
    plain = json.loads(dict(encode_sample(sample))["json"])
    first = replace(sample.rounds[0], places=(5,))
    changed = replace(
        sample, rounds=(first, replace(sample.rounds[1], supervised=False)), system="Be brief."
    )
    members = dict(encode_sample(changed))
    found = json.loads(members["json"])
    assert list(found) == ["key", "source", "split", "system", "records", "rounds", "images"]
    assert found.pop("system") == "Be brief."
    assert found["rounds"][0].pop("places") == [5]
    assert found["rounds"][1].pop("loss") is False
    assert found == plain
    again = decode_sample(members, name="here")
    assert (again.rounds, again.system) == (changed.rounds, "Be brief.")


@pytest.mark.parametrize("places", [(0, 1), (-2,), (1000,)])
def test_places_that_do_not_fit_the_question_are_refused(tokenizer, places):
    sample = toy_sample(3, tokenizer, num_images=2)
    with pytest.raises(
        ValueError, match=r"toy/3: round 0 has places .*; wanted one for each of 1 images"
    ):
        replace(sample, rounds=(replace(sample.rounds[0], places=places), sample.rounds[1]))


def test_a_stored_dialogue_is_rendered_with_its_places_loss_and_system_text(tokenizer):
    sample = toy_sample(3, tokenizer, num_images=2)
    first = replace(sample.rounds[0], places=(5,), supervised=False)
    changed = replace(sample, rounds=(first, sample.rounds[1]), system="Be brief.")
    parts = dialogue_text(changed, VisualChatTemplate())
    assert Text("Be brief.\n\n") in parts
    assert Text("### Question:\nWhat ### Image 1:\n") in parts
    wanted = sample.rounds[1].answer + "</s>"
    encoded = tokenizer.encode(parts)
    assert tokenizer.decode(encoded.ids[encoded.supervised]) == wanted


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("key",), 5, "json: key is 5, wanted a string"),
        (("rounds",), {}, r"json: rounds is \{\}, wanted an array"),
        (("rounds", 0, "answer"), None, r"json: rounds\[0\]\.answer is None, wanted a string"),
        (("rounds", 0, "images"), ["0"], r"json: rounds\[0\]\.images\[0\] is '0'"),
        (("rounds", 0, "loss"), 0, r"json: rounds\[0\]\.loss is 0, wanted true or false"),
        (("rounds", 0, "weight"), 0, r"json: rounds\[0\] is .*, wanted an object without 'weight'"),
        (("images", 1, "file"), "0.jpg", r"json: images\[1\]\.file is '0.jpg', wanted 1.jpg"),
        (("images", 1, "file"), "../x", r"json: images\[1\]\.file is '../x'"),
        (("images", 0, "size"), [1], r"json: images\[0\]\.size is \[1\], wanted \[width"),
        (("images", 0, "size"), [-1, 2], r"json: images\[0\]\.size\[0\] is -1"),
        (("records", 0, "first_round"), 1, r"json: records\[0\]\.first_round is 1"),
        (("records", 0, "num_rounds"), 9, r"json: records\[0\]\.num_rounds is 9"),
        (("records", 0, "num_rounds"), 1, "json: records is .*, wanted records of all 2 rounds"),
        (("records", 0, "marks"), "a", r"json: records\[0\]\.marks is 'a', wanted an array"),
        (("records", 0), None, r"json: records\[0\] is None, wanted an object"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_naming_its_place(tokenizer, path, value, message):
    found = dict(encode_sample(toy_sample(0, tokenizer)))
    described = json.loads(found["json"])
    inner = described
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(ValueError, match=f"here: {message}"):
        decode_sample(found | {"json": json.dumps(described).encode()}, name="here")


def test_deep_json_is_refused_in_one_line(tokenizer):
    found = dict(encode_sample(toy_sample(0, tokenizer))) | {"json": b"[" * 60_000}
    with pytest.raises(ValueError, match="here: json is nested too deep"):
        decode_sample(found, name="here")
