"""Prefetch: ranges of the next samples, and whole shards of the next rows into the cache.

Own threads read ranges, so that those that decode do not wait for the network. One more thread
fills the cache with whole shards, in the order in which the plan needs them; until a shard is
there, its samples are read by range.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.cache_filler import CacheFiller
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.loading.ranges import PendingRange, merge_spans, start_reads
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.storage.cached_store import CachedStore
from vchat.shards.storage.store import LocalStore

Ints = NDArray[np.int64]


class Prefetcher:
    """Prefetches for one pass over a loader."""

    def __init__(self, fetcher: SampleFetcher, *, rank: int, world_size: int, ranks_per_node: int):
        """Start no thread yet.

        Args:
            rank, world_size, ranks_per_node: these decide which rows this machine reads.
        """
        self._fetcher = fetcher
        stores = [store for store, _ in fetcher.shards]
        self._is_remote = any(not isinstance(store, LocalStore) for store in stores)
        self._has_cache = any(isinstance(store, CachedStore) for store in stores)
        readers = max((store.num_readers for store in stores), default=1)
        self._range_threads = ThreadPoolExecutor(readers, thread_name_prefix="vchat-ranges")
        self._node = (rank // ranks_per_node, ranks_per_node, world_size)
        self._cache_filler: CacheFiller | None = None
        self._plan: EpochPlan | None = None

    def advance(self, plan: EpochPlan, next_row: int) -> None:
        """Tell the prefetcher which row comes next; the cache filler works ahead of it."""
        if not self._has_cache:
            return
        if plan is not self._plan:
            if self._cache_filler is not None:
                self._cache_filler.stop()
            self._plan = plan
            rows = self._rows_of_machine(plan, next_row)
            self._cache_filler = CacheFiller(plan, self._fetcher, rows=rows, next_row=next_row)
        assert self._cache_filler is not None
        self._cache_filler.advance(next_row)

    def start_reads(self, numbers: NDArray[np.integer]) -> dict[int, PendingRange]:
        """Start reading the samples that are not local; return their ranges by sample number.

        Asks the system to read local files ahead.
        """
        fetcher = self._fetcher
        if not self._is_remote:
            fetcher.prefetch(numbers)
            return {}
        distinct = np.array(list(dict.fromkeys(numbers.tolist())), np.int64)
        ranges = merge_spans(
            fetcher.shard[distinct], fetcher.start[distinct], fetcher.end[distinct]
        )
        pending = start_reads(ranges, shards=fetcher.shards, pool=self._range_threads)
        return {int(distinct[index]): span for index, span in pending.items()}

    def close(self) -> None:
        """Stop all threads."""
        if self._cache_filler is not None:
            self._cache_filler.stop()
        self._range_threads.shutdown(wait=True, cancel_futures=True)

    def _rows_of_machine(self, plan: EpochPlan, first_row: int) -> NDArray[np.bool_]:
        """Return bool[R]: which rows, from `first_row` on, a rank of this machine reads."""
        node, ranks_per_node, world_size = self._node
        rows = np.arange(plan.num_rows)
        local: NDArray[np.bool_] = rows % world_size // ranks_per_node == node
        return local & (rows >= first_row)
