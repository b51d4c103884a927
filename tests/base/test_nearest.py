"""Suggestions for mistyped names."""

from vchat.base.nearest import did_you_mean, nearest


def test_the_similar_name_is_suggested():
    assert did_you_mean("lava", ["llava", "coco_caption"]) == "did you mean 'llava'?"


def test_all_names_are_listed_where_none_is_similar():
    assert did_you_mean("xyz", ["llava", "coco"]) == "known: llava, coco"


def test_at_most_so_many_names_come_back_most_similar_first():
    assert nearest("step", ["steps", "stop", "epoch"], most=2) == ["steps", "stop"]
