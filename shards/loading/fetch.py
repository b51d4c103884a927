"""Read what training needs of one sample: token ids, supervision mask and image bytes, checked.

The members of a sample lie one after the other in the tar, and the index says where: one byte range
per sample, or one for several where `ranges.py` joins them. Every member's length and xxh3 checksum
are compared with the index; no tar header is parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.loading.ranges import UNREAD_MEMBER, PendingRange, sample_spans
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.shards.plan.plan_index import number_in_order, text_column
from vchat.shards.storage.store import LocalStore, ShardError

TOKENS, MASK, UNREAD = -1, -2, -3
"""Roles of members; that of an image is its number."""


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
        """Take the locating columns of the index; opens nothing."""
        table = sets.table
        self._keys = text_column(table["key"])
        self._sources, self._source = sets.index.sources, sets.index.source
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.shards = sets.shards
        self.start, self.end = sample_spans(table)
        counts = pc.list_value_length(table["members"]).to_numpy().astype(np.int64)
        self._first_member = offsets_from_counts(counts)
        members = pc.list_flatten(table["members"])
        self._names, self._name = number_in_order(pc.struct_field(members, "name"))
        self._roles = [role_of(name) for name in self._names]
        self._offset = pc.struct_field(members, "offset").to_numpy()
        self._size = pc.struct_field(members, "size").to_numpy()
        self._xxh3 = pc.struct_field(members, "xxh3").to_numpy()

    def fetch(self, number: int, *, pending: PendingRange | None = None) -> FetchedSample:
        """Return one sample.

        Args:
            pending: has its bytes, or is about to; without, they are read now.

        Raises:
            ShardError: unreadable, short, wrong checksum, or not the arrays they should be.
        """
        start, body = int(self.start[number]), self._body(number, reading=pending)
        parts: dict[int, memoryview] = {}
        here = slice(self._first_member[number], self._first_member[number + 1])
        for name, offset, size, xxh3 in zip(
            self._name[here].tolist(),
            self._offset[here].tolist(),
            self._size[here].tolist(),
            self._xxh3[here].tolist(),
            strict=True,
        ):
            role = self._roles[name]
            if role != UNREAD:
                part = body[offset - start : offset - start + size]
                if xxhash.xxh3_64_intdigest(part) != xxh3:
                    raise self._checksum_error(
                        part, number=number, offset=offset, name=self._names[name], xxh3=xxh3
                    )
                parts[role] = part
        try:
            ids = parse_npy(parts.pop(TOKENS), "<i4").astype(np.int32, copy=False)
            supervised = parse_npy(parts.pop(MASK), "|b1").astype(np.bool_, copy=False)
        except (KeyError, ValueError) as err:
            raise self._error(f"no token arrays: {err}", number=number, offset=start) from err
        return FetchedSample(
            ids=ids, supervised=supervised, images=tuple(parts[image] for image in sorted(parts))
        )

    def prefetch(self, numbers: NDArray[np.integer]) -> None:
        """Say which samples of local shards are going to be fetched."""
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

    def decode_error(self, number: int, reason: ValueError) -> ShardError:
        """Return the error for a sample whose bytes are as written but not what they should be."""
        return self._error(str(reason), number=number, offset=int(self.start[number]))

    def _body(self, number: int, *, reading: PendingRange | None) -> memoryview:
        """Return the bytes of a sample, from its first member that is read to its last."""
        start, end = int(self.start[number]), int(self.end[number])
        try:
            if reading is not None:
                return reading.wait_for_part(start, end)
            store, shard = self.shards[self.shard[number]]
            return memoryview(store.read(shard, start, end))
        except ShardError as err:
            named = {"key": self._keys[number], "source": self._source_of(number)}
            raise err.with_sample(**named, offset=start) from err

    def _checksum_error(
        self, part: memoryview, *, number: int, offset: int, name: str, xxh3: int
    ) -> ShardError:
        """Return the error for a member whose bytes are not those of the index."""
        store, shard = self.shards[self.shard[number]]
        store.invalidate(shard)
        found = xxhash.xxh3_64_intdigest(part)
        return self._error(
            f"{name} has checksum {found:016x}, the index says {xxh3:016x}",
            number=number,
            offset=offset,
        )

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


def role_of(name: str) -> int:
    """Return what the member of a name is."""
    known = {"tokens.npy": TOKENS, "mask.npy": MASK, UNREAD_MEMBER: UNREAD}
    number = name.partition(".")[0]
    if name in known:
        return known[name]
    if not number.isdecimal():
        raise ValueError(f"the index lists member {name!r}; wanted tokens.npy, mask.npy or 0.jpg")
    return int(number)


def parse_npy(data: memoryview, kind: str) -> NDArray[np.generic]:
    """Return the one-dimensional array in the bytes of a `.npy` file; never unpickles.

    Raises:
        ValueError: not a .npy file of this kind.
    """
    header_end = 10 + int.from_bytes(data[8:10], "little")
    check_header(bytes(data[:header_end]), kind)
    return np.frombuffer(data, dtype=kind, offset=header_end)


@lru_cache(maxsize=8192)
def check_header(header: bytes, kind: str) -> None:
    """Raise ValueError unless a `.npy` header is of a kind; there are few different ones."""
    if header[:6] != b"\x93NUMPY" or len(header) < 10:
        raise ValueError(f"not a .npy file: begins with {header[:6]!r}")
    if f"'descr': '{kind}'".encode() not in header:
        raise ValueError(f"array of another kind than {kind}: {header[10:]!r}")
