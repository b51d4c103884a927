"""Run the tasks of a build in processes of this machine, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vchat.base.processes import open_counter, run_calls, start_fork_server
from vchat.prep.tasks.task import run_task

PROGRESS_FOLDER = "progress"
"""Folder in the work folder with one counter per running task (`processes.open_counter`)."""

PRELOAD = (
    "vchat.prep.tasks.task",
    "vchat.prep.convert.convert_all",
    "vchat.shards.pixels.decode",
)
"""Modules that workers of a build find loaded; importing them takes seconds."""


def start_workers_early() -> None:
    """Load the workers' modules in the background while this process still plans."""
    start_fork_server(PRELOAD)


def run_tasks(
    work: Path, numbers: Sequence[int], *, workers: int, on_dialogues: Callable[[int], None]
) -> None:
    """Run the tasks of the given shard numbers; stop at the first error.

    Args:
        workers: Processes; with 1 the tasks run in this process.
        on_dialogues: Called with how many more dialogues are written, for progress.

    Raises:
        OSError: A task failed, or a worker process died.
    """
    if workers == 1 or len(numbers) < 2:
        for number in numbers:
            run_task(work, number, on_dialogue=lambda: on_dialogues(1))
        return
    calls = [partial(run_counted_task, work, number) for number in numbers]
    run_calls(
        calls,
        workers=workers,
        counts=work / PROGRESS_FOLDER,
        on_progress=on_dialogues,
        preload=PRELOAD,
    )


def run_counted_task(work: Path, number: int) -> None:
    """Run one task that counts its dialogues in a file of the progress folder."""
    with open_counter(work / PROGRESS_FOLDER / str(number)) as count:
        run_task(work, number, on_dialogue=count)
