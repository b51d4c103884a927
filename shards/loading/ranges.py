"""Which byte ranges to request: one per sample, or one for neighbours with a small gap.

A request costs a round trip, however small it is. So up to a point, reading the gap between two
samples costs less than a second request.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.storage.store import Store

Ints = NDArray[np.int64]

UNREAD_MEMBER = "json"
"""The member that describes a sample to people; training does not read it."""

REQUEST_BYTES = 128 << 10
"""Cost of a request, in bytes that could be read instead: the largest gap to read over."""

LARGEST_RANGE = 8 << 20
"""Longer ranges are split into several requests, which run side by side."""


@dataclass(frozen=True, slots=True)
class PendingRange:
    """A range of a shard that is being read."""

    start: int
    data: Future[bytes]

    def wait_for_part(self, start: int, end: int) -> memoryview:
        """Wait for the range and return a part of it; raises the error of the read, if any."""
        return memoryview(self.data.result())[start - self.start : end - self.start]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """One request for the bytes of some samples of a shard."""

    shard: int
    start: int
    end: int
    samples: Ints
    """Indices of these samples among all that `merge_spans` was given, ascending."""


def merge_spans(shard: NDArray[np.integer], start: Ints, end: Ints) -> list[ByteRange]:
    """Return ranges that cover the spans of samples, in the order of their first samples.

    Args:
        shard, start, end: the span of each sample to read.
    """
    order = np.lexsort((start, shard))
    starts = np.flatnonzero(range_starts(shard[order], start[order], end[order]))
    ranges = [
        ByteRange(int(shard[group[0]]), int(start[group[0]]), int(end[group].max()), np.sort(group))
        for group in np.split(order, starts[1:])
        if len(group)
    ]
    return sorted(ranges, key=lambda span: int(span.samples[0]))


def range_starts(group: NDArray[np.integer], start: Ints, end: Ints) -> NDArray[np.bool_]:
    """Return bool[N]: whether each span begins a new range; the others extend the one before.

    Spans share a range if they are of one group, at most `REQUEST_BYTES` apart and at most
    `LARGEST_RANGE` together.

    Args:
        group, start, end: of spans in the order of group, then start.
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
    """Start reading the ranges that are not local; return the range of each sample by index."""
    pending: dict[int, PendingRange] = {}
    for span in ranges:
        store, name = shards[span.shard]
        if not store.is_local(name):
            data = pool.submit(store.read, name, span.start, span.end)
            pending |= dict.fromkeys(span.samples.tolist(), PendingRange(span.start, data))
    return pending


def sample_spans(table: pa.Table) -> tuple[Ints, Ints]:
    """Return where in its shard the part of each sample that training reads starts and ends.

    Both int64[N].
    """
    counts = pc.list_value_length(table["members"]).to_numpy().astype(np.int64)
    if len(counts) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    members = pc.list_flatten(table["members"])
    offset = pc.struct_field(members, "offset").to_numpy()
    end = offset + pc.struct_field(members, "size").to_numpy()
    unread = pc.equal(pc.struct_field(members, "name"), UNREAD_MEMBER).to_numpy()
    firsts = offsets_from_counts(counts)[:-1]
    start = np.minimum.reduceat(np.where(unread, np.iinfo(np.int64).max, offset), firsts)
    return start, np.maximum.reduceat(np.where(unread, 0, end), firsts)
