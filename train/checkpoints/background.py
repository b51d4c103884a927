"""Work beside training, one piece at a time: files are written while the next steps run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Background:
    """One thread of this process. Use as a context manager; at its end, nothing runs any more.

    If the block ends with an error, what runs is told to give up.
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

    def start(self, work: Callable[[threading.Event], None]) -> None:
        """Begin a piece of work, after the one before; it is given an event that says: give up."""
        self.wait()
        self._running = self._thread.submit(work, self._cancel)

    def wait(self) -> None:
        """Wait until nothing runs; raises what the work raised."""
        running, self._running = self._running, None
        if running is not None:
            running.result()
