"""What each rank reads in an epoch, and how evenly the images of a moment are spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.ranges import LARGEST_RANGE, range_starts, sample_spans
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.plan.window_packing import SampleNumbers

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWork:
    """Work of each rank in one epoch, by rank."""

    bytes: list[int]
    """Read from the shards: the samples, and over a network what lies between neighbours that
    share a request."""

    requests: list[int]
    """Reads: of a local shard one for each sample; over a network one for each range of neighbours
    in a micro-batch, as without a cache. Repetitions after a fault come on top."""

    images: list[int]
    image_imbalance: float
    """Most images of a rank over the mean of all ranks, mean over moments: 1 is even.

    A moment is when each rank works on its next micro-batch; all wait for the slowest.
    """

    def as_json(self) -> dict[str, Any]:
        """Return plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpans:
    """Where in its shard each of N samples lies that a plan may read."""

    start: Ints
    """int64[N], first byte."""

    end: Ints
    """int64[N], the byte after the last."""

    is_remote: NDArray[np.bool_]
    """bool[N], whether its shard is read over a network."""

    @classmethod
    def of(cls, sets: JoinedSets) -> SampleSpans:
        """Return where what training reads of each sample lies."""
        start, end = sample_spans(sets.table)
        remote = [not store.is_local(name) for store, name in sets.shards]
        return cls(start=start, end=end, is_remote=np.array(remote, np.bool_)[sets.index.shard])


def rank_work(
    plan: EpochPlan,
    *,
    spans: SampleSpans,
    rows_per_step: int,
    rows_per_micro_batch: int = 1,
    world_size: int = 1,
) -> RankWork:
    """Add up an epoch by rank, the rows of an incomplete last step included unless dropped."""
    rows = np.arange(min(plan.num_steps(rows_per_step) * rows_per_step, plan.num_rows))
    rank = rows % world_size
    images = plan.images_per_row[rows]
    in_step = rows % rows_per_step // world_size // rows_per_micro_batch
    moment = rows // rows_per_step * rows_per_step + in_step
    group = moment * world_size + rank
    drawn = np.repeat(rows, np.diff(plan.row_offsets[: len(rows) + 1]))
    made = count_reads(plan.samples[: len(drawn)], group[drawn], plan=plan, spans=spans)
    reader = made.micro_batch % world_size
    return RankWork(
        bytes=sum_by_rank(made.bytes, reader, world_size=world_size),
        requests=sum_by_rank(made.requests, reader, world_size=world_size),
        images=sum_by_rank(images, rank, world_size=world_size),
        image_imbalance=imbalance(images, rank, moment=moment, world_size=world_size),
    )


class Reads(NamedTuple):
    """What readers ask the shards for: one sample, or a range of several."""

    micro_batch: Ints
    """int64[reads], as the two others."""

    bytes: Ints
    requests: Ints
    """Over a network, one for each part of at most `LARGEST_RANGE` bytes."""


def count_reads(
    samples: SampleNumbers, micro_batch: Ints, *, plan: EpochPlan, spans: SampleSpans
) -> Reads:
    """Return the reads of an epoch, as `ReadAhead` and `SampleFetcher` make them.

    Args:
        micro_batch: of each of the samples, a number of its own for every rank.
    """
    far = spans.is_remote[samples]
    near = samples[~far]
    group, samples = micro_batch[far], samples[far]
    order = np.lexsort((spans.start[samples], plan.index.shard[samples], group))
    group, samples = group[order], samples[order]
    again = (np.diff(group) == 0) & (np.diff(samples) == 0)  # a sample twice is read once
    once = np.append(True, ~again)[: len(group)]
    group, samples = group[once], samples[once]
    start, end = spans.start[samples], spans.end[samples]
    place = group * (int(plan.index.shard.max(initial=0)) + 1) + plan.index.shard[samples]
    first = np.flatnonzero(range_starts(place, start, end))
    last = np.append(first[1:], len(start))[: len(first)] - 1
    of_samples, of_ranges = spans.end[near] - spans.start[near], end[last] - start[first]
    return Reads(
        np.concatenate([micro_batch[~far], group[first]]),
        np.concatenate([of_samples, of_ranges]),
        np.concatenate([np.ones_like(of_samples), -(-of_ranges // LARGEST_RANGE)]),
    )


def sum_by_rank(values: Ints, rank: Ints, *, world_size: int) -> list[int]:
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
