"""What reading costs: bytes, requests, cache hits, retries, decode time, waiting time.

Every reader counts into its own `Metrics`; the loader sums them, and training logs the increase
since its last line. Counts are of one process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

MetricName = Literal[
    "disk_bytes",  # read from local folders and from the cache
    "network_bytes",  # read from object storage, including whole shards for the cache
    "requests",  # to object storage, including retries
    "retries",  # requests that were repeated after a fault
    "cache_hits",  # reads from whole shards on the local disk
    "cache_misses",  # reads over the network although there is a cache
    "decode_s",  # summed over threads
    "waiting_s",  # that the consumer waited for a batch
]


class Metrics:
    """Totals that grow; safe to use from several threads. A pickled copy starts at 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: dict[MetricName, float] = dict.fromkeys(get_args(MetricName), 0)

    def count(self, name: MetricName, amount: float = 1) -> None:
        """Add to one total."""
        with self._lock:
            self._totals[name] += amount

    @contextlib.contextmanager
    def measure_time(self, name: MetricName) -> Iterator[None]:
        """Add the seconds that the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.count(name, time.perf_counter() - began)

    def totals(self) -> dict[MetricName, float]:
        """Return all current totals."""
        with self._lock:
            return dict(self._totals)

    def __reduce__(self) -> tuple[type[Metrics], tuple[()]]:
        return Metrics, ()


def sum_metrics(metrics_list: Iterable[Metrics]) -> dict[MetricName, float]:
    """Return the sums over `Metrics`; one that is listed twice counts once."""
    distinct = {id(metrics): metrics for metrics in metrics_list}.values()
    sums = Metrics().totals()
    for metrics in distinct:
        for what, amount in metrics.totals().items():
            sums[what] += amount
    return sums
