"""Loaders of toy shards: the plan that tests read by, one epoch of it, and what to compare."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.arguments import PlanArguments

SIDE = 32


def toy_arguments(**changes: object) -> PlanArguments:
    """Rows of 400 positions and at most 8 images of 5 positions, from 2 shards at a time."""
    given = {
        "split": "train",
        "seed": 1,
        "epoch": 0,
        "tokens_per_row": 400,
        "images_per_row": 8,
        "positions_per_image": 5,
        "shuffle_window_shards": 2,
        "lanes": 2,
    }
    return PlanArguments(**(given | changes))  # type: ignore[arg-type]


def toy_loader(
    sets: ShardSet | Sequence[ShardSet], plan: PlanArguments | None = None, **changes: object
) -> Loader:
    """Steps of 2 rows, images of 32 pixels."""
    given = {"rows_per_step": 2, "image_size": SIDE}
    return Loader(sets, plan or toy_arguments(), **(given | changes))  # type: ignore[arg-type]


def first_epoch(loader: Loader) -> list[Batch]:
    """All batches of epoch 0."""
    num_steps = loader.plan(0).num_steps(loader.rows_per_step)
    return list(itertools.islice(loader, num_steps * loader.micro_batches_per_step))


def keys_of(batches: Iterable[Batch]) -> list[str]:
    """The keys of all samples, in order."""
    return [key for batch in batches for row in batch.keys for key in row]


def are_equal(found: Sequence[Batch], wanted: Sequence[Batch]) -> bool:
    """Whether batches hold the same samples in the same order, to the pixel."""
    return [batch.keys for batch in found] == [batch.keys for batch in wanted] and all(
        torch.equal(getattr(ours, name), getattr(theirs, name))
        for ours, theirs in zip(found, wanted, strict=True)
        for name in ("pixels", "token_ids", "labels", "position_ids", "segment_ids")
    )
