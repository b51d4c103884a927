"""What is read before it is asked for: ranges of the next samples, whole shards of the next rows.

Ranges are read by threads of their own, so that those that decode do not wait for the network. One
more thread brings whole shards into the cache, in the order in which the plan needs them; until a
shard is there, its samples are read by range.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.cache_filler import ShardKeeper
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.loading.ranges import Reading, begun, joined_ranges
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.storage.cached_store import CachedStore
from vchat.shards.storage.store import LocalStore

Ints = NDArray[np.int64]


class ReadAhead:
    """Reads for one iteration of a loader."""

    def __init__(self, fetcher: SampleFetcher, *, rank: int, world_size: int, ranks_per_node: int):
        """Start no thread yet.

        Args:
            rank, world_size, ranks_per_node: which rows this machine reads.
        """
        self._fetcher = fetcher
        stores = [store for store, _ in fetcher.shards]
        self._is_far = any(not isinstance(store, LocalStore) for store in stores)
        self._has_cache = any(isinstance(store, CachedStore) for store in stores)
        readers = max((store.readers for store in stores), default=1)
        self._ranges = ThreadPoolExecutor(readers, thread_name_prefix="vchat-ranges")
        self._node = (rank // ranks_per_node, ranks_per_node, world_size)
        self._keeper: ShardKeeper | None = None
        self._plan: EpochPlan | None = None

    def reached(self, plan: EpochPlan, position: int) -> None:
        """Hear that the rows from a position on are going to be read next."""
        if not self._has_cache:
            return
        if plan is not self._plan:
            if self._keeper is not None:
                self._keeper.stop()
            self._plan = plan
            rows = self._rows_here(plan, position)
            self._keeper = ShardKeeper(plan, self._fetcher, rows=rows, position=position)
        assert self._keeper is not None
        self._keeper.reached(position)

    def begin(self, numbers: NDArray[np.integer]) -> dict[int, Reading]:
        """Start reading samples that lie far away; return their readings by sample number.

        Local files are brought into memory by the system.
        """
        fetcher = self._fetcher
        if not self._is_far:
            fetcher.expect(numbers)
            return {}
        distinct = np.array(list(dict.fromkeys(numbers.tolist())), np.int64)
        ranges = joined_ranges(
            fetcher.shard[distinct], fetcher.start[distinct], fetcher.end[distinct]
        )
        readings = begun(ranges, shards=fetcher.shards, pool=self._ranges)
        return {int(distinct[place]): reading for place, reading in readings.items()}

    def close(self) -> None:
        """End its threads."""
        if self._keeper is not None:
            self._keeper.stop()
        self._ranges.shutdown(wait=True, cancel_futures=True)

    def _rows_here(self, plan: EpochPlan, position: int) -> NDArray[np.bool_]:
        """Return which rows from a position on are read by a rank of this machine."""
        node, ranks_per_node, world_size = self._node
        rows = np.arange(plan.num_rows)
        mine: NDArray[np.bool_] = rows % world_size // ranks_per_node == node
        return mine & (rows >= position)
