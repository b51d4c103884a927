"""Read what training needs of one sample: token ids, supervision mask and image bytes, checked.

The members of a sample lie one after the other in the tar, and the index says where: one byte range
per sample, or one for several where `ranges.py` joins them. Every member's length and xxh3 checksum
are compared with the index; no tar header is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray
from vchat.shards.joined_sets import JoinedSets
from vchat.shards.plan_index import text_column
from vchat.shards.ranges import UNREAD_MEMBER, Reading, sample_spans
from vchat.shards.store import ShardError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One sample as stored: ids with one slot id per image."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    images: tuple[memoryview, ...]
    """Encoded, in the order of their slots."""


class SampleFetcher:
    """Fetches samples of one split by number. Safe to use from several threads."""

    def __init__(self, sets: JoinedSets):
        """Take the locating columns of the index; opens nothing."""
        table = sets.table
        self._keys = text_column(table["key"])
        self._sources, self._source = sets.index.sources, sets.index.source
        self.shard = table["shard"].to_numpy()
        self.shards = sets.shards
        self.start, self.end = sample_spans(table)
        counts = pc.list_value_length(table["members"]).to_numpy().astype(np.int64)
        self._first_member = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        members = pc.list_flatten(table["members"])
        self._names = text_column(pc.struct_field(members, "name"))
        self._offset = pc.struct_field(members, "offset").to_numpy()
        self._size = pc.struct_field(members, "size").to_numpy()
        self._xxh3 = pc.struct_field(members, "xxh3").to_numpy()

    def fetch(self, number: int, *, reading: Reading | None = None) -> Fetched:
        """Return one sample.

        Args:
            reading: has its bytes, or is about to; without, they are read now.

        Raises:
            ShardError: unreadable, short, wrong checksum, or not the arrays they should be.
        """
        members, start = self._members(number), int(self.start[number])
        body = self._body(number, reading=reading)
        parts = {
            name: self._checked(body, number=number, member=member, start=start)
            for name, member in members.items()
        }
        try:
            ids = stored_array(parts.pop("tokens.npy"), "<i4").astype(np.int32, copy=False)
            supervised = stored_array(parts.pop("mask.npy"), "|b1").astype(np.bool_, copy=False)
        except (KeyError, ValueError) as err:
            raise self._error(f"no token arrays: {err}", number=number, offset=start) from err
        images = sorted(parts, key=image_number)
        return Fetched(
            ids=ids,
            supervised=supervised,
            images=tuple(parts[name] for name in images),
        )

    def num_bytes(self, numbers: NDArray[np.integer]) -> int:
        """Return how many bytes are read for some samples."""
        return int((self.end[numbers] - self.start[numbers]).sum())

    def undecodable(self, number: int, reason: ValueError) -> ShardError:
        """Return the error for a sample whose bytes are as written but not what they should be."""
        return self._error(str(reason), number=number, offset=int(self.start[number]))

    def _body(self, number: int, *, reading: Reading | None) -> memoryview:
        """Return the bytes of a sample, from its first member that is read to its last."""
        start, end = int(self.start[number]), int(self.end[number])
        try:
            if reading is not None:
                return reading.body(start, end)
            store, shard = self.shards[self.shard[number]]
            return memoryview(store.read(shard, start, end))
        except ShardError as err:
            named = {"key": self._keys[number], "source": self._source_of(number)}
            raise err.of_sample(**named, offset=start) from err

    def _members(self, number: int) -> dict[str, int]:
        """Return the place in the index of every member that is read, by name."""
        places = range(self._first_member[number], self._first_member[number + 1])
        named = {self._names[place]: place for place in places}
        return {name: place for name, place in named.items() if name != UNREAD_MEMBER}

    def _checked(self, body: memoryview, *, number: int, member: int, start: int) -> memoryview:
        """Return the bytes of one member, or raise if the checksum differs."""
        first = int(self._offset[member]) - start
        part = body[first : first + int(self._size[member])]
        found, wanted = xxhash.xxh3_64_intdigest(part), int(self._xxh3[member])
        if found != wanted:
            store, shard = self.shards[self.shard[number]]
            store.distrust(shard)
            raise self._error(
                f"{self._names[member]} has checksum {found:016x}, the index says {wanted:016x}",
                number=number,
                offset=int(self._offset[member]),
            )
        return part

    def _error(self, problem: str, *, number: int, offset: int) -> ShardError:
        _, shard = self.shards[self.shard[number]]
        return ShardError(
            problem,
            shard=shard,
            offset=offset,
            key=self._keys[number],
            source=self._source_of(number),
        )

    def _source_of(self, number: int) -> str:
        return self._sources[int(self._source[number])]


def image_number(member: str) -> int:
    """Return which image of its sample a member is: 0 for `0.jpg`."""
    return int(member.partition(".")[0])


def stored_array(data: memoryview, kind: str) -> NDArray[np.generic]:
    """Return the one-dimensional array in the bytes of a `.npy` file; never unpickles.

    Raises:
        ValueError: not a .npy file of this kind.
    """
    if bytes(data[:6]) != b"\x93NUMPY" or len(data) < 10:
        raise ValueError(f"not a .npy file: begins with {bytes(data[:6])!r}")
    header_end = 10 + int.from_bytes(data[8:10], "little")
    if f"'descr': '{kind}'".encode() not in bytes(data[10:header_end]):
        raise ValueError(f"array of another kind than {kind}: {bytes(data[10:header_end])!r}")
    return np.frombuffer(data[header_end:], dtype=kind)


def bytes_to_read(table: pa.Table) -> NDArray[np.int64]:
    """Return int64[N]: the length of the byte range that `SampleFetcher` reads of each sample."""
    start, end = sample_spans(table)
    return end - start
