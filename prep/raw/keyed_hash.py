"""Numbers that depend on a seed, a purpose and a key, and on nothing else.

Whatever a build draws (which side of the split, which group, which order) is such a number, so it
is the same for any file order, worker count or library version.
"""

from __future__ import annotations

import xxhash

HASH_RANGE = 2**64


def keyed_hash(seed: int, purpose: str, key: str) -> int:
    """Return an integer from 0 to 2**64 - 1 that is uniform over keys.

    `purpose` keeps draws apart: the same key gives unrelated numbers for two purposes.
    """
    return xxhash.xxh3_64_intdigest(f"{seed}\0{purpose}\0{key}".encode())
