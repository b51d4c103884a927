"""Recipes of small builds, and the files that a build leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vchat.prep.convert.images import ImagePolicy
from vchat.prep.convert.recipe import Recipe, SourceChoice
from vchat_testing.raw_data import (
    good_llava_row,
    llava_row,
    write_image,
    write_json,
    write_llava,
)
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


def write_mix(folder: Path, *, count: int = 40) -> None:
    """Write LLaVA data with photographs that cannot be decoded, and a dialogue that is too long."""
    data = folder / "data"
    write_llava(data, count=count)
    write_image(data / "coco/train2017/000000000003.jpg", "truncated")
    rows = [good_llava_row(number) for number in range(1, count + 1)]
    rows.append(llava_row(7, "<image>\nLong?", "word " * 3000))
    rows[-1]["id"] = "long"
    write_json(data / "llava/conversation_58k.json", rows)
