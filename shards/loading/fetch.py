"""Read what training needs of one sample: token ids, supervision mask and image bytes, checked.

The members of a sample are next to each other in the tar, and the index says where: one byte range
per sample, or one for several where `ranges.py` merges them. No tar header is parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.format.members import cut_members
from vchat.shards.format.npy import MASK_KIND, TOKENS_KIND, parse_npy
from vchat.shards.loading.ranges import UNREAD_MEMBER, PendingRange, sample_spans
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.plan.plan_index import number_in_order, text_column
from vchat.shards.storage.store import LocalStore, ShardError

TOKENS, MASK = "tokens.npy", "mask.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedSample:
    """One sample as stored: ids with one slot id per image."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    images: tuple[memoryview, ...]
    """Encoded, in the order of their slots."""


class SampleFetcher:
    """Fetches samples of one split by number. Safe to use from several threads."""

    def __init__(self, sets: JoinedSets):
        """Take the locating columns of the index; opens nothing.

        Raises:
            ValueError: the index lists a member that is not of a sample.
        """
        table = sets.table
        self._keys = text_column(table["key"])
        self._sources, self._source = sets.index.sources, sets.index.source
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.shards = sets.shards
        self.start, self.end = sample_spans(table)
        self._first_member = offsets_from_counts(pc.list_value_length(table["members"]).to_numpy())
        members = pc.list_flatten(table["members"])
        self._names, self._name = number_in_order(pc.struct_field(members, "name"))
        self._image_numbers = {
            name: image_number(name)
            for name in self._names
            if name not in (TOKENS, MASK, UNREAD_MEMBER)
        }
        self._offset = pc.struct_field(members, "offset").to_numpy()
        self._size = pc.struct_field(members, "size").to_numpy()
        self._xxh3 = pc.struct_field(members, "xxh3").to_numpy()

    def fetch(self, number: int, *, pending: PendingRange | None = None) -> FetchedSample:
        """Return one sample.

        Args:
            pending: a range that has its bytes, or will; without, they are read now.

        Raises:
            ShardError: unreadable, short, wrong checksum, or not the arrays they should be.
        """
        start, data = int(self.start[number]), self._read(number, pending=pending)
        store, shard = self.shards[self.shard[number]]
        try:
            parts = cut_members(
                data, self._members(number), first_byte=start, store=store, shard=shard
            )
        except ShardError as err:
            raise self._with_sample(err, number=number, offset=err.offset) from err
        try:
            ids = parse_npy(parts.pop(TOKENS), TOKENS_KIND).astype(np.int32, copy=False)
            supervised = parse_npy(parts.pop(MASK), MASK_KIND).astype(np.bool_, copy=False)
        except (KeyError, ValueError) as err:
            raise self.decode_error(number, f"no token arrays: {err}") from err
        images = sorted(parts, key=self._image_numbers.__getitem__)
        return FetchedSample(
            ids=ids, supervised=supervised, images=tuple(parts[name] for name in images)
        )

    def prefetch(self, numbers: NDArray[np.integer]) -> None:
        """Tell local stores which samples come next, so that the system reads them ahead."""
        for shard, start, end in zip(
            self.shard[numbers].tolist(),
            self.start[numbers].tolist(),
            self.end[numbers].tolist(),
            strict=True,
        ):
            store, name = self.shards[shard]
            if isinstance(store, LocalStore):
                store.prefetch(name, start, end)

    def num_bytes(self, numbers: NDArray[np.integer]) -> int:
        """Return how many bytes are read for some samples."""
        return int((self.end[numbers] - self.start[numbers]).sum())

    def decode_error(self, number: int, problem: str) -> ShardError:
        """Return the error for a sample whose bytes are as written but not what they should be."""
        _, shard = self.shards[self.shard[number]]
        start = int(self.start[number])
        return self._with_sample(ShardError(problem, shard=shard), number=number, offset=start)

    def _read(self, number: int, *, pending: PendingRange | None) -> memoryview:
        """Return the bytes of a sample, from its first member that is read to its last."""
        start, end = int(self.start[number]), int(self.end[number])
        try:
            if pending is not None:
                return pending.wait_for_part(start, end)
            store, shard = self.shards[self.shard[number]]
            return memoryview(store.read(shard, start, end))
        except ShardError as err:
            raise self._with_sample(err, number=number, offset=start) from err

    def _members(self, number: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield name, offset, size and xxh3 of each member that training reads."""
        of_sample = slice(self._first_member[number], self._first_member[number + 1])
        for name, offset, size, xxh3 in zip(
            self._name[of_sample].tolist(),
            self._offset[of_sample].tolist(),
            self._size[of_sample].tolist(),
            self._xxh3[of_sample].tolist(),
            strict=True,
        ):
            if self._names[name] != UNREAD_MEMBER:
                yield self._names[name], offset, size, xxh3

    def _with_sample(self, error: ShardError, *, number: int, offset: int) -> ShardError:
        """Return the same error, naming the sample."""
        source = self._sources[int(self._source[number])]
        return error.with_sample(key=self._keys[number], source=source, offset=offset)


def image_number(name: str) -> int:
    """Return the number in the name of an image member: 0 for `0.jpg`.

    Raises:
        ValueError: it has none.
    """
    number = name.partition(".")[0]
    if not number.isdecimal():
        raise ValueError(f"the index lists member {name!r}; wanted {TOKENS}, {MASK} or 0.jpg")
    return int(number)
