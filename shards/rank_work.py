"""What each rank reads in an epoch, and how evenly the images of a moment are spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vchat.shards.epoch import EpochPlan, sums

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWork:
    """Work of each rank in one epoch, by rank."""

    bytes: list[int]
    """Read from the shards."""

    requests: list[int]
    """Byte ranges asked for, one per sample; over a network, near ones share a request."""

    images: list[int]
    image_imbalance: float
    """Most images of a rank over the mean of all ranks, mean over moments: 1 is even.

    A moment is when each rank works on its next micro-batch; all wait for the slowest.
    """

    def as_json(self) -> dict[str, Any]:
        """Return plain values by field name."""
        return asdict(self)


def rank_work(
    plan: EpochPlan,
    *,
    sample_bytes: Ints,
    rows_per_step: int,
    rows_per_micro_batch: int = 1,
    world_size: int = 1,
) -> RankWork:
    """Add up an epoch by rank, the rows of an incomplete last step included unless dropped.

    Args:
        sample_bytes: int64[N], as `fetch.bytes_to_read` gives them.
    """
    rows = np.arange(min(plan.num_steps(rows_per_step) * rows_per_step, plan.num_rows))
    rank = rows % world_size
    row_bytes = sums(sample_bytes[plan.samples], plan.row_offsets)
    images = plan.images_per_row[rows]
    in_step = rows % rows_per_step // world_size // rows_per_micro_batch
    moment = rows // rows_per_step * rows_per_step + in_step
    return RankWork(
        bytes=by_rank(row_bytes[rows], rank, world_size=world_size),
        requests=by_rank(np.diff(plan.row_offsets)[rows], rank, world_size=world_size),
        images=by_rank(images, rank, world_size=world_size),
        image_imbalance=imbalance(images, rank, moment=moment, world_size=world_size),
    )


def by_rank(values: Ints, rank: Ints, *, world_size: int) -> list[int]:
    """Return the sum of the values of each rank."""
    totals = np.zeros(world_size, np.int64)
    np.add.at(totals, rank, values)
    return [int(total) for total in totals]


def imbalance(images: Ints, rank: Ints, *, moment: Ints, world_size: int) -> float:
    """Return the mean over moments of (most images of a rank / mean of all ranks)."""
    if len(images) == 0:
        return 1.0
    _, number = np.unique(moment, return_inverse=True)
    per_rank = np.zeros((int(number.max()) + 1, world_size), np.int64)
    np.add.at(per_rank, (number, rank), images)
    shown = per_rank[per_rank.sum(axis=1) > 0]
    return float((shown.max(axis=1) / shown.mean(axis=1)).mean()) if len(shown) else 1.0
