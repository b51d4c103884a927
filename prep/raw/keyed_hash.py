"""Hashes that depend on a seed, a purpose and a key, and on nothing else.

Every random choice of a build (side of the split, group, order) is such a hash, so it is the same
for any file order, worker count or library version.
"""

from __future__ import annotations

import xxhash

HASH_RANGE = 2**64


def keyed_hash(seed: int, purpose: str, key: str) -> int:
    """Return an integer from 0 to 2**64 - 1 that is uniform over keys.

    The same key gives unrelated numbers for two different purposes.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}\0{purpose}\0{key}".encode())
