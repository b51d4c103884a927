"""Which whole shards a machine keeps on its disk while it works through an epoch. Pure arithmetic.

A shard is worth keeping if reading the samples that the ranks of the machine need of it, one by
one, costs more than reading it whole. It is kept from before its first row until after its last.
The plan knows both, so what is brought in early is bounded by the bytes that are kept, and a shard
whose rows are done gives way to the next.
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
    """int64[shards], position of the first row with a sample of it; the largest int if there is
    none."""

    last: Ints
    """int64[shards], of the last; -1 if there is none."""

    range_cost: Ints
    """int64[shards], bytes of its samples in these rows and of a request for each."""


def shard_use(
    plan: EpochPlan, rows: NDArray[np.bool_], *, sample_bytes: Ints, num_shards: int
) -> ShardUse:
    """Return where the rows that a machine reads need each shard.

    Args:
        rows: bool[R], which rows of the plan are read.
        sample_bytes: int64[N], read of each sample of the index.
    """
    row_of_draw = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_offsets))
    read = rows[row_of_draw]
    row, samples = row_of_draw[read], plan.samples[read]
    shard = plan.index.shard[samples]
    first = np.full(num_shards, np.iinfo(np.int64).max)
    last = np.full(num_shards, -1)
    cost = np.zeros(num_shards, np.int64)
    first[shard[::-1]] = row[::-1]  # rows ascend, so the assignment that comes last stays
    last[shard] = row
    np.add.at(cost, shard, sample_bytes[samples] + REQUEST_BYTES)
    return ShardUse(first=first, last=last, range_cost=cost)


def shards_to_cache(use: ShardUse, *, sizes: Ints, next_row: int, budget: int) -> list[int]:
    """Return the shards to keep at a position of the epoch, those that are needed first foremost.

    Args:
        sizes: int64[shards] in bytes; 0 for a shard that is not kept.
        budget: the most bytes they may have together.
    """
    worthwhile = (sizes > 0) & (use.range_cost >= sizes) & (use.last >= next_row)
    candidates = np.flatnonzero(worthwhile)
    candidates = candidates[np.argsort(use.first[candidates], kind="stable")]
    fitting = np.cumsum(sizes[candidates]) <= budget
    return [int(shard) for shard in candidates[fitting]]
