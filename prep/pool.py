"""Run the tasks of a build in processes of this machine.

Every task writes one whole shard, so tasks share nothing and may run anywhere in any order. Workers
are started fresh (never forked from a process that has used threads) and end when the process that
started them is gone, however it ended.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

from vchat.prep.task import run_task

POLL_S = 0.2


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
    with process_pool(min(workers, len(numbers))) as pool:
        futures = [pool.submit(counted_task, work, number) for number in numbers]
        try:
            _watch(futures, work, on_dialogues)
        except BrokenProcessPool as err:
            raise OSError(
                "a worker process died (out of memory, or killed); run the same command again to"
                " go on from the finished shards"
            ) from err
        finally:
            pool.shutdown(cancel_futures=True)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes that end when this one is gone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vchat.prep.task", "vchat.shards.decode"])
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(dict(os.environ),)
    )


def _begin(environment: dict[str, str]) -> None:
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


def counted_task(work: Path, number: int) -> None:
    """Run one task; a file that grows by one byte per dialogue says how far it is."""
    count = _progress_file(work, number)
    count.parent.mkdir(exist_ok=True)
    with count.open("wb", buffering=0) as file:
        run_task(work, number, on_dialogue=lambda: _grow(file.write))


def _grow(write: Callable[[bytes], int | None]) -> None:
    write(b".")


def _progress_file(work: Path, number: int) -> Path:
    return work / "progress" / str(number)


def _watch(
    futures: Sequence[Future[None]], work: Path, on_dialogues: Callable[[int], None]
) -> None:
    """Wait for all tasks, or the first that fails, and report how many dialogues are written."""
    seen = 0
    while True:
        done, waiting = wait(futures, timeout=POLL_S, return_when=FIRST_EXCEPTION)
        written = written_dialogues(work)
        on_dialogues(written - seen)
        seen = written
        for future in done:
            future.result()
        if not waiting:
            return


def written_dialogues(work: Path) -> int:
    """Return how many dialogues all tasks have written so far."""
    return sum(path.stat().st_size for path in (work / "progress").glob("*"))
