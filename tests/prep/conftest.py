"""A finished build that several files of tests look into; none of them changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vchat.prep.convert.recipe import Recipe
from vchat.prep.pipeline.build import build_shards
from vchat.prep.pipeline.finish import BuildResult
from vchat_testing.building import toy_recipe, write_mix


@pytest.fixture(scope="session")
def mix_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, BuildResult]:
    """Return folder, recipe and result of a build of `write_mix` with one worker."""
    folder = tmp_path_factory.mktemp("built")
    write_mix(folder)
    recipe = toy_recipe(folder, names=("llava", "llava_dial"))
    return folder, recipe, build_shards(recipe)
