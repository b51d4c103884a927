"""Run independent calls in processes of this machine, with their progress and their first error.

Workers are started fresh (never forked from a process that has used threads) and end when the
process that started them is gone, however it ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.2


def run_calls(
    calls: Sequence[Callable[[], T]],
    *,
    workers: int,
    counts: Path,
    on_progress: Callable[[int], None],
    preload: Sequence[str] = (),
) -> list[T]:
    """Make every call in a process of a pool and return their results, in the order of the calls.

    The first error stops the calls that are still running.

    Args:
        calls: Picklable; each reports its progress to a file of its own in the folder `counts`
            (`open_counter`).
        counts: Removed at the end.
        on_progress: Called with how many more things are done.
        preload: As in `process_pool`.

    Raises:
        OSError: A worker process died; a call's own errors are raised as they are.
    """
    with process_pool(min(workers, len(calls)), preload=preload) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            _wait_for_calls(futures, counts, on_progress)
        except BrokenProcessPool as err:
            raise OSError(
                "a worker process died (out of memory, or killed); run the same command again to"
                " go on from what is finished"
            ) from err
        finally:
            shutil.rmtree(counts, ignore_errors=True)
            pool.shutdown(cancel_futures=True)
        return [future.result() for future in futures]


def process_pool(workers: int, *, preload: Sequence[str] = ()) -> ProcessPoolExecutor:
    """Return a pool of fresh processes that end when this one is gone.

    Args:
        preload: Names of modules that workers find loaded; without effect if an earlier pool of
            this process has started the fork server.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(dict(os.environ),)
    )


def start_fork_server(preload: Sequence[str]) -> None:
    """Start the process that workers are forked from, which loads `preload` in the background."""
    forkserver.set_forkserver_preload(list(preload))
    forkserver.ensure_running()


def _start_worker(environment: dict[str, str]) -> None:
    """Take over the environment of the process that started the pool, and end when it is gone.

    The fork server has the environment of the moment when it was started, perhaps for an earlier
    pool.
    """
    os.environ.clear()
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


@contextlib.contextmanager
def open_counter(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one more by appending a byte to a file.

    It raises `OSError` once the file has been removed: then nobody waits for the result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:

        def count() -> None:
            file.write(b".")
            if not os.fstat(file.fileno()).st_nlink:
                raise OSError(f"{path.name} was stopped: something else failed")

        yield count


def read_counters(counts: Path) -> int:
    """Return the sum of all counters in a folder."""
    return sum(path.stat().st_size for path in counts.glob("*"))


def _wait_for_calls(
    futures: Sequence[Future[T]], counts: Path, on_progress: Callable[[int], None]
) -> None:
    """Wait for all calls, or for the first that fails, and report how much is done."""
    num_reported = 0
    while True:
        done, pending = wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        num_done = read_counters(counts)
        on_progress(num_done - num_reported)
        num_reported = num_done
        for future in done:
            future.result()
        if not pending:
            return
