"""A remote shard set with a cache: cached shards are read from disk, others by range."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor

from vchat.shards.storage.cache import ShardCache
from vchat.shards.storage.metrics import Metrics
from vchat.shards.storage.remote import RemoteStore
from vchat.shards.storage.store import ShardError, read_range


class CachedStore:
    """Reads a shard from the cache if it is there; only `fill_cache` adds one."""

    num_readers = RemoteStore.num_readers

    def __init__(self, remote: RemoteStore, cache: ShardCache, *, digests: Mapping[str, str]):
        """Read through `cache` what lies in `remote`.

        Args:
            remote: The shards; its `sizes` are known.
            cache: On a local disk.
            digests: SHA-256 of each shard, by name.
        """
        self.remote, self.cache = remote, cache
        self._digests = dict(digests)

    @property
    def metrics(self) -> Metrics:
        """The counts of the remote store, which include those of the cache."""
        return self.remote.metrics

    def size(self, name: str) -> int:
        """Return the size of an object in bytes, or raise ShardError."""
        return self.remote.size(name)

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a shard, or raise ShardError."""
        path = self.cache.look_up(self._digests[name])
        if path is not None:
            try:
                data = read_range(path, start, end, name=name)
            except ShardError:
                self.invalidate(name)
            else:
                self.metrics.count("cache_hits")
                self.metrics.count("disk_bytes", len(data))
                return data
        self.metrics.count("cache_misses")
        return self.remote.read(name, start, end)

    def is_local(self, name: str) -> bool:
        """Whether the cache has the shard."""
        return self.cache.contains(self._digests[name])

    def invalidate(self, name: str) -> None:
        """Remove a shard from the cache."""
        self.cache.remove(self._digests[name])

    def touch(self, name: str) -> bool:
        """Mark a shard in the cache as just used; return whether it is there."""
        return self.cache.look_up(self._digests[name]) is not None

    def fill_cache(self, name: str, *, pool: Executor) -> bool:
        """Copy a whole shard into the cache; return whether it is there now.

        Args:
            name: Of the shard.
            pool: Reads parts of it.

        Raises:
            ShardError: It cannot be read, or is not the shard that the manifest lists.
            OSError: The disk of the cache is full or fails.
        """
        size = self.remote.sizes[name]
        parts = self.remote.read_parts(name, size, pool=pool)
        try:
            return self.cache.fill(self._digests[name], size=size, parts=parts)
        except ShardError:
            raise
        except ValueError as err:
            raise ShardError(f"{self.remote.url}: {err}", shard=name, offset=0) from err
