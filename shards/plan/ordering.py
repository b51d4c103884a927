"""Order by keyed 64-bit hashes: the same permutation on any machine and any library version.

Keys are hashed once; a seed and an epoch turn the key hashes into sort keys. Everything is integer
arithmetic on whole arrays, N samples at a time; nothing here draws from a random generator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts

Hashes = NDArray[np.uint64]

STRINGS_PER_CHUNK = 1 << 16
"""How many strings to hash at a time, so that their arrays stay in the processor's cache."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads consecutive numbers


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Many short strings end to end, as Arrow stores them: no Python object per string."""

    data: NDArray[np.uint8]
    """UTF-8 of all strings, one after the other."""

    offsets: NDArray[np.int64]
    """int64[N + 1]; string i is `data[offsets[i]:offsets[i + 1]]`."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextColumn:
        """Pack strings into a column."""
        encoded = [text.encode() for text in texts]
        offsets = offsets_from_counts(map(len, encoded))
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def part(self, start: int, end: int) -> TextColumn:
        """Return strings `start` to `end` (exclusive) as a column of their own."""
        first, last = self.offsets[start], self.offsets[end]
        return TextColumn(self.data[first:last], self.offsets[start : end + 1] - first)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self.offsets[number], self.offsets[number + 1]
        return self.data[start:end].tobytes().decode()


def mix64(values: Hashes) -> Hashes:
    """Return a bijection of 64-bit numbers of each value; about half of its bits change.

    The finaliser of SplitMix64, after adding its increment, so that 0 does not stay 0.
    """
    # Updated in place: beside it, only one array of shifted values is as long.
    mixed = values + _GOLDEN
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def key_hashes(keys: TextColumn) -> Hashes:
    """Return uint64[N], a hash of each string that depends on its bytes and nothing else.

    Folds the words of a string (8 bytes, little-endian, the last one padded with zeros) one after
    the other into its mixed length. Memory: 8 bytes per string.
    """
    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), STRINGS_PER_CHUNK):
        part = keys.part(start, min(start + STRINGS_PER_CHUNK, len(keys)))
        padded = np.concatenate([part.data, np.zeros(8, np.uint8)])
        words = as_strided(padded[:8].view("<u8"), shape=(len(part.data) + 1,), strides=(1,))
        hashes[start : start + STRINGS_PER_CHUNK] = fold_words(words, part.offsets)
    return hashes


def fold_words(words: Hashes, offsets: NDArray[np.int64]) -> Hashes:
    """Return the hashes of the strings between successive offsets.

    Args:
        words: the 8 bytes that start at each byte of the column, as one number.
    """
    lengths = np.diff(offsets)
    hashes = mix64(lengths.astype(np.uint64))
    for start in range(0, int(lengths.max(initial=0)), 8):
        longer = np.flatnonzero(lengths > start)
        unused_bits = (8 * np.clip(8 - (lengths[longer] - start), 0, 7)).astype(np.uint64)
        mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> unused_bits
        hashes[longer] = mix64(hashes[longer] ^ (words[offsets[longer] + start] & mask))
    return hashes


def make_sort_keys(hashes: Hashes, *, seed: int, epoch: int, purpose: int) -> Hashes:
    """Return sort keys uint64[N] for one use in one epoch; distinct hashes stay distinct.

    Args:
        hashes: of what to order, from `key_hashes`, or any distinct numbers.
        purpose: a number for each use of the order, so that two uses are unrelated.
    """
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch, purpose):
        key = mix64(key ^ np.array([part & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64))
    return mix64(hashes ^ key)


def sort_within_groups(groups: NDArray[np.int64], sort_keys: Hashes) -> NDArray[np.int64]:
    """Return the order int64[N] that sorts by group, then by sort key, then by number.

    One stable sort of 64-bit numbers: the group takes their upper bits, the upper bits of the sort
    key the others.
    """
    bits = np.uint64(int(groups.max(initial=0)).bit_length())
    if bits == 0:
        return np.argsort(sort_keys, kind="stable")
    combined = (groups.astype(np.uint64) << (np.uint64(64) - bits)) | (sort_keys >> bits)
    return np.argsort(combined, kind="stable")
