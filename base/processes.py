"""Run the steps of a build that share nothing in processes of this machine, in any order.

Every task writes one whole shard, every conversion one whole staged file. Workers are started fresh
(never forked from a process that has used threads) and end when the process that started them is
gone, however it ended.
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
from functools import partial
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import TypeVar

from vchat.prep.build.task import run_task

T = TypeVar("T")
POLL_S = 0.2
PROGRESS_FOLDER = "progress"
"""Of the files, in the work folder, that say how far each task is."""

_LIBRARIES = ["vchat.prep.build.task", "vchat.prep.convert.convert_all", "vchat.shards.pixels.decode"]
"""What workers find loaded."""


def run_tasks(
    work: Path, numbers: Sequence[int], *, workers: int, on_dialogues: Callable[[int], None]
) -> None:
    """Run the tasks of the given shard numbers; stops at the first error.

    Args:
        workers: processes; with 1 the tasks run in this process.
        on_dialogues: called with how many more dialogues are written, for progress.

    Raises:
        OSError: from a task, or if a worker process died.
    """
    if workers == 1 or len(numbers) < 2:
        for number in numbers:
            run_task(work, number, on_dialogue=lambda: on_dialogues(1))
        return
    calls = [partial(run_counted_task, work, number) for number in numbers]
    run_calls(calls, workers=workers, counts=work / PROGRESS_FOLDER, on_progress=on_dialogues)


def run_calls(
    calls: Sequence[Callable[[], T]],
    *,
    workers: int,
    counts: Path,
    on_progress: Callable[[int], None],
) -> list[T]:
    """Make every call in a process of a pool and return what they return, in order.

    Args:
        calls: Picklable; each counts what it does in a file of its own in the folder `counts`
            (`counted`), which is removed at the end. The first error ends those that are running.
        on_progress: called with how many more things are done.

    Raises:
        OSError: if a worker process died; and what a call raises.
    """
    with process_pool(min(workers, len(calls))) as pool:
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


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes that end when this one is gone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(dict(os.environ),)
    )


def start_fork_server() -> None:
    """Let what workers are forked from load its libraries, which takes seconds, from now on."""
    forkserver.set_forkserver_preload(_LIBRARIES)
    forkserver.ensure_running()


def _start_worker(environment: dict[str, str]) -> None:
    """Take over the environment of the process that started the pool, and end when it is gone.

    The fork server has the one of the moment when it was started, perhaps for an earlier pool.
    """
    os.environ.clear()
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_counted_task(work: Path, number: int) -> None:
    """Run one task; a file that grows by one byte per dialogue says how far it is."""
    with open_counter(work / PROGRESS_FOLDER / str(number)) as count:
        run_task(work, number, on_dialogue=count)


@contextlib.contextmanager
def open_counter(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one more, in the size of a file.

    It raises `OSError` when the file has been removed: then nobody waits for the result.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=0) as file:

        def count() -> None:
            file.write(b".")
            if not os.fstat(file.fileno()).st_nlink:
                raise OSError(f"{path.name} was stopped: something else failed")

        yield count


def _wait_for_calls(futures: Sequence[Future[T]], counts: Path, on_progress: Callable[[int], None]) -> None:
    """Wait for all calls, or the first that fails, and report how much is done."""
    seen = 0
    while True:
        done, waiting = wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        now = read_counters(counts)
        on_progress(now - seen)
        seen = now
        for future in done:
            future.result()
        if not waiting:
            return


def read_counters(counts: Path) -> int:
    """Return how much all calls that count in a folder have done so far."""
    return sum(path.stat().st_size for path in counts.glob("*"))
