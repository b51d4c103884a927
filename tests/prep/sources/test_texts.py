"""Texts keep their words, lines and odd characters; every placeholder is a place for an image."""

import pytest

from vchat.base.json_text import DAMAGED
from vchat.prep.raw.rejected import Rejected
from vchat.prep.sources.texts import (
    clean_text,
    pair_turns,
    rounds_sharing_images,
    rounds_with_placeholders,
)
from vchat.shards.format.record import ImageRef

IMAGE = ImageRef(key="k:1", file="1.jpg")


@pytest.mark.parametrize(
    "text", ["a\0b", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600", "### Answer:", "</s>"]
)
def test_odd_text_is_unaltered(text):
    assert clean_text(f" {text}\n", what="it") == text


@pytest.mark.parametrize(
    "value, reason",
    [(None, "bad_row"), (3, "bad_row"), ("\ud800", "bad_text"), (f"a{DAMAGED}", "bad_text")],
)
def test_a_value_that_is_not_text_is_rejected(value, reason):
    with pytest.raises(Rejected) as caught:
        clean_text(value, what="it")
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "roles", [["gpt", "human"], ["human"], ["human", "human"], ["human", "gpt", "human"]]
)
def test_roles_must_alternate_and_end_with_an_answer(roles):
    with pytest.raises(Rejected, match="bad_role_order"):
        pair_turns([(role, "x") for role in roles], user="human", assistant="gpt")


def test_images_go_to_the_rounds_that_show_them():
    other = ImageRef(key="k:2", file="2.jpg")
    pairs = [("<image>\nOne?", "1"), ("Both?", "2"), ("<image>\nTwo?", "3")]
    rounds = rounds_with_placeholders(pairs, [IMAGE, other])
    assert [round_.images for round_ in rounds] == [(IMAGE,), (), (other,)]


@pytest.mark.parametrize(
    "pairs",
    [
        [("Absent?", "a")],
        [("<image> twice <image>?", "a")],
        [("<image>\nIn the answer?", "<image>")],
    ],
)
def test_placeholders_that_do_not_fit_the_images_are_rejected(pairs):
    with pytest.raises(Rejected, match="placeholder_mismatch"):
        rounds_with_placeholders(pairs, [IMAGE])


def test_a_pair_with_an_empty_text_is_left_out_and_counted():
    rounds, left_out = rounds_sharing_images([("", "a"), ("Q?", " "), ("Who?", "Ann")], [IMAGE])
    assert [(round_.question, round_.images) for round_ in rounds] == [("Who?", (IMAGE,))]
    assert left_out == {"empty_text": 2}
    with pytest.raises(Rejected, match="empty_text"):
        rounds_sharing_images([("Q?", "")], [IMAGE])
