"""Cut the bytes of a sample into its members and check each against the index.

Every reader of samples comes through here: training, `RawSamples`, inspection, `where`.
"""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

from vchat.shards.storage.store import ShardError, Store

ATTEMPTS = 3
"""How often to read a sample whose bytes are wrong; the store retries requests by itself."""


def cut_members(
    data: memoryview,
    members: Iterable[tuple[str, int, int, int]],
    *,
    first_byte: int,
    store: Store,
    shard: str,
) -> dict[str, memoryview]:
    """Return the members by name, as parts of `data`.

    A wrong checksum invalidates what the store has of the shard: an open file, a cached copy.

    Args:
        data: bytes of the shard.
        members: name, offset in the shard, size and xxh3 of each.
        first_byte: offset in the shard at which `data` begins.
        store: what `data` was read from.
        shard: name of the file in the store.

    Raises:
        ShardError: a member has another checksum; names neither key nor source.
    """
    parts = {}
    for name, offset, size, xxh3 in members:
        start = offset - first_byte
        part = parts[name] = data[start : start + size]
        found = xxhash.xxh3_64_intdigest(part)
        if found != xxh3:
            store.invalidate(shard)
            raise ShardError(
                f"{name} has checksum {found:016x}, the index says {xxh3:016x}",
                shard=shard,
                offset=offset,
            )
    return parts
