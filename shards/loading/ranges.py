"""Which byte ranges are asked for: one per sample, or one for neighbours with little between them.

A request costs a round trip whatever it brings, so up to a point the bytes between two samples cost
less than a second request.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.shards.storage.store import Store

Ints = NDArray[np.int64]

UNREAD_MEMBER = "json"
"""The member that describes a sample to people; training does without."""

REQUEST_BYTES = 128 << 10
"""What a request costs, in bytes that could be read instead: more between two samples is not."""

LARGEST_RANGE = 8 << 20
"""More is asked for in several requests, which run side by side."""


@dataclass(frozen=True, slots=True)
class PendingRange:
    """A range of a shard that is being read."""

    start: int
    data: Future[bytes]

    def wait_for_part(self, start: int, end: int) -> memoryview:
        """Wait for the range and return a part of it; raises what the reading raised."""
        return memoryview(self.data.result())[start - self.start : end - self.start]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One request for the bytes of some samples of a shard."""

    shard: int
    start: int
    end: int
    samples: Ints
    """Places of the samples among those that were asked for, ascending."""


def merge_spans(shard: NDArray[np.integer], start: Ints, end: Ints) -> list[ByteRange]:
    """Return ranges that cover the spans of samples, that of the first sample first.

    Args:
        shard, start, end: of each sample that is wanted.
    """
    order = np.lexsort((start, shard))
    starts = np.flatnonzero(range_starts(shard[order], start[order], end[order]))
    ranges = [
        ByteRange(
            int(shard[places[0]]), int(start[places[0]]), int(end[places].max()), np.sort(places)
        )
        for places in np.split(order, starts[1:])
        if len(places)
    ]
    return sorted(ranges, key=lambda found: int(found.samples[0]))


def range_starts(group: NDArray[np.integer], start: Ints, end: Ints) -> NDArray[np.bool_]:
    """Return bool[N]: which spans begin a range of their own, others join the one before them.

    Spans are joined if they are of one group, at most `REQUEST_BYTES` apart and at most
    `LARGEST_RANGE` together.

    Args:
        group, start, end: of spans that are sorted by group, then start.
    """
    new = np.ones(len(group), np.bool_)
    new[1:] = (group[1:] != group[:-1]) | (start[1:] - end[:-1] > REQUEST_BYTES)
    while True:
        first = np.maximum.accumulate(np.where(new, np.arange(len(new)), 0))
        too_far = ~new & (end - start[first] > LARGEST_RANGE)
        if not too_far.any():
            return new
        too_far[1:] &= ~too_far[:-1] | new[:-1]  # the first one too far begins the next range
        new |= too_far


def start_reads(
    ranges: Sequence[ByteRange], *, shards: Sequence[tuple[Store, str]], pool: Executor
) -> dict[int, PendingRange]:
    """Start reading the ranges that lie far away; return what will hold each sample, by place."""
    readings: dict[int, PendingRange] = {}
    for found in ranges:
        store, name = shards[found.shard]
        if not store.is_local(name):
            reading = PendingRange(
                found.start, pool.submit(store.read, name, found.start, found.end)
            )
            readings |= dict.fromkeys(found.samples.tolist(), reading)
    return readings


def sample_spans(table: pa.Table) -> tuple[Ints, Ints]:
    """Return start and end in its shard of what is read of each sample, int64[N] both."""
    counts = pc.list_value_length(table["members"]).to_numpy().astype(np.int64)
    if len(counts) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    members = pc.list_flatten(table["members"])
    offset = pc.struct_field(members, "offset").to_numpy()
    end = offset + pc.struct_field(members, "size").to_numpy()
    unread = pc.equal(pc.struct_field(members, "name"), UNREAD_MEMBER).to_numpy()
    firsts = np.cumsum(counts) - counts
    start = np.minimum.reduceat(np.where(unread, np.iinfo(np.int64).max, offset), firsts)
    return start, np.maximum.reduceat(np.where(unread, 0, end), firsts)
