"""Small indexes and arguments to plan with; nothing here is on disk."""

from __future__ import annotations

import numpy as np

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.ordering import TextColumn
from vchat.shards.plan.plan_index import PlanIndex

POSITIONS_PER_IMAGE = 5


def index_of(text_tokens: list[int], num_images: list[int], shard: list[int]) -> PlanIndex:
    """An index of these samples; n has key `toy/n`, n % 3 supervised tokens, source even or odd."""
    count = len(text_tokens)
    return PlanIndex(
        digest="0" * 64,
        keys=TextColumn.of(f"toy/{n}" for n in range(count)),
        sources=("even", "odd"),
        source=np.arange(count, dtype=np.int32) % 2,
        text_tokens=np.array(text_tokens, np.int32),
        supervised_tokens=np.arange(count, dtype=np.int32) % 3,
        num_images=np.array(num_images, np.int32),
        image_sizes=np.full((sum(num_images), 2), 224, np.int32),
        shard=np.array(shard, np.int32),
        set_of_shard=np.zeros(max(shard, default=-1) + 1, np.int32),
    )


def regular_index(num_samples: int = 200, samples_per_shard: int = 10) -> PlanIndex:
    numbers = range(num_samples)
    return index_of(
        [8 + n * n % 23 for n in numbers],
        [n % 4 for n in numbers],
        [n // samples_per_shard for n in numbers],
    )


def arguments(**changes: object) -> PlanArguments:
    given = {
        "split": "train",
        "seed": 7,
        "epoch": 0,
        "tokens_per_row": 64,
        "images_per_row": 6,
        "positions_per_image": POSITIONS_PER_IMAGE,
        "shuffle_window_shards": 2,
        "lanes": 3,
    }
    return PlanArguments(**(given | changes))  # type: ignore[arg-type]
