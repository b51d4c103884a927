"""A thread that writes files while the next steps run, one job at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """One thread of this process. Use as a context manager: the end of the block waits for it.

    If the block ends with an error, the running job is asked to cancel.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vchat-background")
        self._cancel = threading.Event()
        self._running: Future[None] | None = None

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._cancel.set()
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()

    def start(self, job: Callable[[threading.Event], None]) -> None:
        """Start a job when the one before is done; it gets an event that asks it to cancel."""
        self.wait()
        self._running = self._thread.submit(job, self._cancel)

    def wait(self) -> None:
        """Wait until no job runs; raises what the job raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
