"""Recipes of small builds, and the files that a build leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat_testing.toy import toy_tokenizer


def toy_recipe(
    folder: Path, *, out: str = "out", names: Sequence[str] = ("llava",), **changed: Any
) -> Recipe:
    """Return a recipe for `folder/data` with small pictures and several small shards."""
    if not (folder / "tokenizer").exists():
        toy_tokenizer(folder / "tokenizer")
    given: dict[str, Any] = {
        "source": tuple(SourceChoice(name=name, concatenate=2) for name in names),
        "data": str(folder / "data"),
        "tokenizer": str(folder / "tokenizer"),
        "out": str(folder / out),
        "eval_fraction": 0.25,
        "shard_size": "12KB",
        "positions_per_image": 5,
        "image": ImagePolicy(size=24),
    }
    return Recipe(**(given | changed))


def read_files(out: Path) -> dict[str, bytes]:
    """Return the contents of a shard set by path, without the work folder."""
    paths = (path for path in out.rglob("*") if path.is_file() and ".work" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}
