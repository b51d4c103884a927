"""What each rank reads in an epoch, and how evenly ranks share the images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.ranges import LARGEST_RANGE, range_starts, sample_spans
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import EpochPlan, plan_epoch
from vchat.shards.plan.excluded_keys import find_unknown_keys
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.plan.summary import summarize_plan
from vchat.shards.plan.window_packing import SampleNumbers

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWork:
    """Work of each rank in one epoch, by rank."""

    bytes: list[int]
    """Read from the shards: the samples, and over a network the gaps between neighbours that share
    a request."""

    requests: list[int]
    """Of a local shard one read for each sample; over a network one for each range of neighbours in
    a micro-batch, as without a cache. Retries after a fault are extra."""

    images: list[int]
    image_imbalance: float
    """Maximum / mean of images over ranks, averaged over micro-batches: 1 is even.

    All ranks wait for the slowest one before the next micro-batch.
    """

    def as_json(self) -> dict[str, Any]:
        """Return plain values by field name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpans:
    """Where in its shard each of N samples is that a plan may read."""

    start: Ints
    """int64[N], first byte."""

    end: Ints
    """int64[N], the byte after the last."""

    is_remote: NDArray[np.bool_]
    """bool[N], whether its shard comes over a network."""

    @classmethod
    def of(cls, sets: JoinedSets) -> SampleSpans:
        """Return the spans of what training reads of each sample."""
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
    """Count the work of an epoch by rank, with an incomplete last step unless it is dropped."""
    rows = np.arange(min(plan.num_steps(rows_per_step) * rows_per_step, plan.num_rows))
    rank = rows % world_size
    images = plan.images_per_row[rows]
    in_step = rows % rows_per_step // world_size // rows_per_micro_batch
    moment = rows // rows_per_step * rows_per_step + in_step
    group = moment * world_size + rank
    row_of_draw = np.repeat(rows, np.diff(plan.row_offsets[: len(rows) + 1]))
    reads = count_reads(
        plan.samples[: len(row_of_draw)], group[row_of_draw], plan=plan, spans=spans
    )
    reader = reads.micro_batch % world_size
    return RankWork(
        bytes=sum_by_rank(reads.bytes, reader, world_size=world_size),
        requests=sum_by_rank(reads.requests, reader, world_size=world_size),
        images=sum_by_rank(images, rank, world_size=world_size),
        image_imbalance=imbalance(images, rank, moment=moment, world_size=world_size),
    )


class Reads(NamedTuple):
    """What readers request from shards: one sample, or a range of several."""

    micro_batch: Ints
    """int64[reads], like the two below."""

    bytes: Ints
    requests: Ints
    """Over a network, one for each part of at most `LARGEST_RANGE` bytes."""


def count_reads(
    samples: SampleNumbers, micro_batch: Ints, *, plan: EpochPlan, spans: SampleSpans
) -> Reads:
    """Return the reads of an epoch, as `Prefetcher` and `SampleFetcher` make them.

    Args:
        micro_batch: of each sample; ranks have different numbers.
    """
    is_remote = spans.is_remote[samples]
    local_samples = samples[~is_remote]
    group, samples = micro_batch[is_remote], samples[is_remote]
    order = np.lexsort((spans.start[samples], plan.index.shard[samples], group))
    group, samples = group[order], samples[order]
    repeats = (np.diff(group) == 0) & (np.diff(samples) == 0)  # one read serves both
    distinct = np.append(True, ~repeats)[: len(group)]
    group, samples = group[distinct], samples[distinct]
    start, end = spans.start[samples], spans.end[samples]
    group_and_shard = group * (int(plan.index.shard.max(initial=0)) + 1) + plan.index.shard[samples]
    first = np.flatnonzero(range_starts(group_and_shard, start, end))
    last = np.append(first[1:], len(start))[: len(first)] - 1
    sample_bytes = spans.end[local_samples] - spans.start[local_samples]
    range_bytes = end[last] - start[first]
    return Reads(
        np.concatenate([micro_batch[~is_remote], group[first]]),
        np.concatenate([sample_bytes, range_bytes]),
        np.concatenate([np.ones_like(sample_bytes), -(-range_bytes // LARGEST_RANGE)]),
    )


def sum_by_rank(values: Ints, rank: Ints, *, world_size: int) -> list[int]:
    """Return the sum of the values of each rank."""
    totals = np.zeros(world_size, np.int64)
    np.add.at(totals, rank, values)
    return [int(total) for total in totals]


def imbalance(images: Ints, rank: Ints, *, moment: Ints, world_size: int) -> float:
    """Return the mean over moments of (maximum / mean of the images of ranks)."""
    if len(images) == 0:
        return 1.0
    _, number = np.unique(moment, return_inverse=True)
    per_rank = np.zeros((int(number.max()) + 1, world_size), np.int64)
    np.add.at(per_rank, (number, rank), images)
    working = per_rank[per_rank.sum(axis=1) > 0]
    return float((working.max(axis=1) / working.mean(axis=1)).mean()) if len(working) else 1.0


def describe_plan(
    sets: JoinedSets,
    arguments: PlanArguments,
    *,
    rows_per_step: int,
    rows_per_micro_batch: int,
    world_size: int,
) -> dict[str, Any]:
    """Plan an epoch; return what it holds and what each rank reads, as JSON values."""
    plan = plan_epoch(sets.index, arguments)
    topology = {
        "rows_per_step": rows_per_step,
        "rows_per_micro_batch": rows_per_micro_batch,
        "world_size": world_size,
    }
    work = rank_work(plan, spans=SampleSpans.of(sets), **topology)
    return {
        **summarize_plan(plan, **topology).as_json(),
        "unknown_keys": find_unknown_keys(arguments.exclude, shard_sets=sets.sets),
        "excluded_keys": [plan.index.keys[int(number)] for number in plan.excluded],
        "dropped_keys": plan.list_dropped_keys(rows_per_step),
        "per_rank": work.as_json(),
    }
