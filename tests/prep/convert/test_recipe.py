"""Recipes are read strictly; flags say the same and go on top."""

from pathlib import Path

import pytest

from vchat.base.cli import WrongUse
from vchat.prep.convert.recipe import (
    Recipe,
    SourceChoice,
    describe_recipe,
    read_recipe,
    size_in_bytes,
)
from vchat.prep.sources.catalogue import SOURCES


@pytest.mark.parametrize(
    "text, wanted", [("256MB", 256_000_000), ("1.5 GB", 1_500_000_000), ("20k", 20_000), ("7", 7)]
)
def test_sizes(text, wanted):
    assert size_in_bytes(text) == wanted


@pytest.mark.parametrize("text", ["", "MB", "0", "12 parsecs", "-3MB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="want a number and KB, MB or GB"):
        size_in_bytes(text)


def test_the_published_recipe_is_known_by_name():
    recipe = read_recipe(Path("visualchat-9"), {})
    assert [choice.concatenate for choice in recipe.source] == [3, 2, 1, 1, 1, 1, 1, 1, 1]
    assert all(choice.name in SOURCES for choice in recipe.source)
    assert recipe.max_images == 8


def test_an_unknown_recipe_names_those_we_ship():
    with pytest.raises(WrongUse, match="no such file; the recipes we ship are tiny, visualchat-9"):
        read_recipe(Path("visualchat-8"), {})


def test_flags_keep_the_settings_of_sources_that_the_recipe_has():
    recipe = read_recipe(Path("visualchat-9"), {"datasets": "llava_dial,mine=a.json", "limit": 5})
    assert recipe.source == (
        SourceChoice(name="llava_dial", concatenate=2, limit=5),
        SourceChoice(name="mine", file="a.json", limit=5),
    )


def test_the_manifest_gets_what_shapes_bytes_and_no_path():
    mine = SourceChoice(name="mine", file="/home/me/a.json")
    recipe = Recipe(source=(mine,), data="/home/me", out="/home/o", tokenizer="/home/t", workers=9)
    described = describe_recipe(recipe)
    assert "/home" not in repr(described)
    assert "workers" not in described
    assert described["source"][0]["file"] == "a.json"
    assert described["image"] == {"size": 224, "format": "jpeg", "quality": 90}
