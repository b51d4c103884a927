"""A thread that downloads whole shards into the cache, in the order in which an epoch needs them.

It downloads only shards that `cache_schedule.py` names, so it works ahead of the reader by no more
bytes than the cache may have. Each process of a machine has such a thread; a shard that one is
downloading, the others skip. If a download fails, it is logged, and the shard is read by range.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vchat.shards.loading.cache_schedule import shard_use, shards_to_cache
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.storage.cached_store import CachedStore
from vchat.shards.storage.remote import PARTS_IN_FLIGHT
from vchat.shards.storage.store import ShardError

log = logging.getLogger(__name__)

RECHECK_S = 1.0
"""How often to re-check the cache: other processes fill and evict entries too."""


class CacheFiller:
    """Runs from construction until `stop`."""

    def __init__(
        self,
        plan: EpochPlan,
        fetcher: SampleFetcher,
        *,
        rows: NDArray[np.bool_],
        next_row: int,
    ):
        """Start the thread.

        Args:
            rows: bool[R], which rows of the plan this machine reads.
            next_row: the first of them.
        """
        self._plan, self._fetcher, self._rows = plan, fetcher, rows
        self._next_row = next_row
        self._changed = threading.Condition()
        self._stopped = False
        self._tried: set[tuple[CachedStore, str]] = set()
        self._pool = ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="vchat-shards")
        self._thread = threading.Thread(target=self._run, name="vchat-cache-filler", daemon=True)
        self._thread.start()

    def advance(self, next_row: int) -> None:
        """Tell the filler that rows before `next_row` need no shards any more."""
        with self._changed:
            self._next_row = next_row
            self._changed.notify()

    def stop(self) -> None:
        """Stop the thread; abandons a pending download."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._thread.join()

    def _run(self) -> None:
        use = shard_use(
            self._plan,
            self._rows,
            sample_bytes=self._fetcher.end - self._fetcher.start,
            num_shards=len(self._fetcher.shards),
        )
        stores = {
            number: (store, name)
            for number, (store, name) in enumerate(self._fetcher.shards)
            if isinstance(store, CachedStore)
        }
        sizes = np.zeros(len(self._fetcher.shards), np.int64)
        for number, (store, name) in stores.items():
            sizes[number] = store.remote.sizes[name]
        budget = min(store.cache.limit_bytes for store, _ in stores.values())
        while not self._stopped:
            next_row = self._next_row
            shards = shards_to_cache(use, sizes=sizes, next_row=next_row, budget=budget)
            if not self._fill_one([stores[number] for number in shards]):
                with self._changed:
                    self._changed.wait_for(
                        lambda seen=next_row: self._stopped or self._next_row != seen,  # type: ignore[misc]
                        timeout=RECHECK_S,
                    )

    def _fill_one(self, shards: list[tuple[CachedStore, str]]) -> bool:
        """Download the first shard that the cache lacks; return whether there was one to download.

        Marks the shards in the cache as used, so that it evicts others for the new one.
        """
        missing = [(store, name) for store, name in shards if not store.touch(name)]
        for store, name in missing:
            if (store, name) not in self._tried and self._fill(store, name):
                return True
        return False

    def _fill(self, store: CachedStore, name: str) -> bool:
        """Download a shard; return whether the cache has it now. Tries each shard once."""
        try:
            if not store.fill_cache(name, pool=self._pool):
                return False  # another process is downloading it
        except (CancelledError, RuntimeError):
            if not self._stopped:
                raise
            return False
        except (ShardError, OSError) as err:
            log.warning("a shard is not cached and will be read by range: %s", err)
            self._tried.add((store, name))
            return False
        self._tried.add((store, name))
        return True
