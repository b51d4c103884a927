"""Which whole shards a machine caches on its disk in the course of an epoch. Pure arithmetic.

A shard is worth caching if reading the samples that the ranks of the machine need of it, one by
one, costs more than reading all of it. The cache holds it from before its first row until after its
last. The plan knows both, so the bytes of cached shards bound what is downloaded early, and a shard
whose rows are over makes space for the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.ranges import REQUEST_BYTES
from vchat.shards.plan.epoch import EpochPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardUse:
    """For each shard, where in the epoch a machine needs it."""

    first: Ints
    """int64[shards], the first row with a sample of the shard; the largest int if there is none."""

    last: Ints
    """int64[shards], the last such row; -1 if no row has one."""

    range_cost: Ints
    """int64[shards], bytes of the shard's samples in these rows, and a request for each."""


def shard_use(
    plan: EpochPlan, rows: NDArray[np.bool_], *, sample_bytes: Ints, num_shards: int
) -> ShardUse:
    """Return where in the epoch the rows that a machine reads need each shard.

    Args:
        rows: bool[R], which rows of the plan the machine reads.
        sample_bytes: int64[N], bytes to read of each sample of the index.
    """
    row_of_draw = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_offsets))
    read = rows[row_of_draw]
    row, samples = row_of_draw[read], plan.samples[read]
    shard = plan.index.shard[samples]
    first = np.full(num_shards, np.iinfo(np.int64).max)
    last = np.full(num_shards, -1)
    cost = np.zeros(num_shards, np.int64)
    first[shard[::-1]] = row[::-1]  # rows ascend, and the last assignment wins
    last[shard] = row
    np.add.at(cost, shard, sample_bytes[samples] + REQUEST_BYTES)
    return ShardUse(first=first, last=last, range_cost=cost)


def shards_to_cache(use: ShardUse, *, sizes: Ints, next_row: int, budget: int) -> list[int]:
    """Return the shards to cache when `next_row` comes next, in the order of need.

    Args:
        sizes: int64[shards] in bytes; 0 for a shard that cannot be cached.
        budget: the most bytes they may have together.
    """
    worthwhile = (sizes > 0) & (use.range_cost >= sizes) & (use.last >= next_row)
    candidates = np.flatnonzero(worthwhile)
    candidates = candidates[np.argsort(use.first[candidates], kind="stable")]
    fitting = np.cumsum(sizes[candidates]) <= budget
    return [int(shard) for shard in candidates[fitting]]
