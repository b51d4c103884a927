"""Choose where the tasks of a build run: in processes of this machine, or on a Ray cluster.

A task needs the work folder and a shard's number and writes one whole shard (`task.run_task`), so
engines differ only in where they call it. `vchat-prep build --task I/N` is the third way, for an
array of jobs: see `pipeline/array_build.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from vchat.prep.convert.recipe import EngineName
from vchat.prep.tasks import local_engine


def warm_up(*, engine: EngineName, workers: int) -> None:
    """Start the worker processes' fork server, which takes seconds, while the plan is made."""
    if engine == "processes" and workers > 1:
        local_engine.start_workers_early()


def run_tasks(
    work: Path,
    numbers: Sequence[int],
    *,
    engine: EngineName,
    workers: int,
    ray_address: str | None,
    on_dialogues: Callable[[int], None],
) -> None:
    """Run the tasks of the given shard numbers; stop at the first error.

    Args:
        work: The work folder.
        numbers: Of the shards, in the plan.
        engine: Where the tasks run.
        workers: Processes of this machine; a Ray cluster runs one task per CPU that it has.
        ray_address: Of the Ray cluster; None starts one on this machine.
        on_dialogues: Called with how many more dialogues are written, for progress.

    Raises:
        WrongUse: The engine is not installed.
        OSError: A task failed, or what runs the tasks.
    """
    shutil.rmtree(work / local_engine.PROGRESS_FOLDER, ignore_errors=True)
    if engine == "ray" and numbers:
        from vchat.prep.tasks import ray_engine

        ray_engine.run_tasks(work, numbers, address=ray_address, on_dialogues=on_dialogues)
    else:
        local_engine.run_tasks(work, numbers, workers=workers, on_dialogues=on_dialogues)
