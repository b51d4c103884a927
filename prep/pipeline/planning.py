"""The first half of a build: convert the sources and decide everything, write no shard."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vchat.base.cli import WrongUse
from vchat.prep.convert.convert import StagedSource
from vchat.prep.convert.convert_all import convert_all
from vchat.prep.convert.recipe import Recipe, describe_recipe, size_in_bytes
from vchat.prep.convert.resolve import ResolvedSource, resolve_sources
from vchat.prep.convert.staged import read_plan_columns
from vchat.prep.plan.blend import (
    Hashes,
    RecordColumns,
    SourceBlend,
    blend_records,
    compute_record_columns,
    hash_image_keys,
)
from vchat.prep.plan.photographs import join_photographs
from vchat.prep.plan.plan import BuildPlan, make_plan
from vchat.prep.report.unused_examples import Examples, find_unused_examples
from vchat.prep.tasks.encoded_images import find_repeated_images
from vchat.prep.tasks.libraries import libraries
from vchat.shards.text.named_template import make_template
from vchat.shards.text.template import Template
from vchat.shards.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBuild:
    """A build with everything decided and nothing heavy done."""

    recipe: Recipe
    sources: tuple[ResolvedSource, ...]
    staged: tuple[StagedSource, ...]
    plan: BuildPlan
    unused_examples: dict[str, Examples]
    """Source -> examples of the records that the plan leaves out."""

    repeated_images: NDArray[np.uint64]
    """Hashes of the keys of images that are used more than once."""

    tokenizer: TextTokenizer
    template: Template


def plan_build(recipe: Recipe, *, work: Path) -> PlannedBuild:
    """Convert the sources (or find them converted) and decide the plan.

    Raises:
        WrongUse, ValueError, OSError: One line each, saying what to do.
    """
    sources = resolve_sources(recipe)
    tokenizer = _load_tokenizer(recipe)
    template = make_template(
        recipe.template.name, system=recipe.template.system, tokenizer=tokenizer
    )
    staged = convert_all(sources, recipe=recipe, work=work / "staged")
    columns = join_photographs(
        [_read_columns(one, recipe) for one in staged],
        seed=recipe.seed,
        read_keys=partial(_read_image_keys, staged),
    )
    limits = [one.choice.limit for one in sources]
    blends = blend_records(
        columns,
        concatenate=[one.choice.concatenate for one in sources],
        limits=limits,
        max_images=recipe.max_images,
        eval_fraction=recipe.eval_fraction,
    )
    return PlannedBuild(
        recipe=recipe,
        sources=sources,
        staged=staged,
        plan=_make_plan(recipe, staged, columns, blends, tokenizer=tokenizer, template=template),
        unused_examples=find_unused_examples(
            staged, columns, blends, limits=limits, max_images=recipe.max_images
        ),
        repeated_images=find_repeated_images(columns, blends),
        tokenizer=tokenizer,
        template=template,
    )


def _load_tokenizer(recipe: Recipe) -> TextTokenizer:
    if recipe.tokenizer is None:
        raise WrongUse("no tokenizer: give its folder with --tokenizer")
    return TextTokenizer.load(Path(recipe.tokenizer))


def _read_columns(staged: StagedSource, recipe: Recipe) -> RecordColumns:
    batches = read_plan_columns(staged.path)
    return compute_record_columns(staged.source, batches, seed=recipe.seed, policy=recipe.image)


def _read_image_keys(staged: Sequence[StagedSource], hashes: Hashes) -> list[str]:
    """Return the keys of images that have these sorted hashes, each once."""
    found: dict[str, None] = {}
    for one in staged:
        for batch in read_plan_columns(one.path, columns=("image_keys",)):
            keys = list({key for some in batch["image_keys"] for key in some})
            wanted = np.isin(hash_image_keys(keys), hashes)
            found |= dict.fromkeys(itertools.compress(keys, wanted))
    return list(found)


def _make_plan(
    recipe: Recipe,
    staged: Sequence[StagedSource],
    columns: Sequence[RecordColumns],
    blends: Sequence[SourceBlend],
    *,
    tokenizer: TextTokenizer,
    template: Template,
) -> BuildPlan:
    """Return the plan; its digest covers everything that shapes the shards' bytes."""
    settings = {
        "inputs": {one.source: one.digest for one in staged},
        "recipe": describe_recipe(recipe),
        "tokenizer": tokenizer.fingerprint,
        "template": template.digest,
        "libraries": libraries(),
    }
    return make_plan(
        columns, blends, shard_bytes=size_in_bytes(recipe.shard_size), settings=settings
    )
