"""A build in three commands, for an array of jobs on machines that share the output folder.

`make_plan_folder` converts the sources and stores the plan, once; `run_share` writes share i of n
of its shards, each in a job of its own; `finish_folder` checks that all are there and publishes.
Jobs need the output folder (with a URL as output, the work folder) and the data at the same paths,
nothing else of each other. A job that was killed is run again. The bytes are those of a plain
build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vchat.base.cli import WrongUse
from vchat.base.progress import show_progress
from vchat.prep.convert.recipe import Recipe
from vchat.prep.pipeline.build import (
    PlannedBuild,
    explain_storage_errors,
    lock_output,
    plan_build,
    recipe_output,
    write_work_folder,
)
from vchat.prep.pipeline.finish import (
    PUBLICATION,
    BuildResult,
    finish_build,
    read_published,
    read_same_build,
)
from vchat.prep.plan.plan import read_plan
from vchat.prep.tasks.local_engine import run_tasks
from vchat.prep.tasks.output import Output, parse_output
from vchat.prep.tasks.task import BuildJob, read_result

_SHARE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """Every `of`-th shard, from shard `number` on; both counted from 0."""

    number: int
    of: int


def parse_share(text: str) -> TaskShare:
    """Return the share that `3/16` means.

    Raises:
        WrongUse: unless 0 <= i < n.
    """
    match = _SHARE.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise WrongUse(f"--task {text}: want i/n with i from 0 to n - 1, such as 0/16 .. 15/16")
    return TaskShare(number=int(match[1]), of=int(match[2]))


def plan_array_build(recipe: Recipe) -> PlannedBuild:
    """Convert, decide the plan, and store it for the tasks.

    Raises:
        WrongUse, ValueError, OSError: as `build.build`.
    """
    output = recipe_output(recipe)
    with explain_storage_errors(output), lock_output(output):
        is_complete = output.is_complete
        prepared = plan_build(recipe, work=output.work)
        if is_complete:
            read_same_build(output, prepared.plan)
        else:
            write_work_folder(prepared, output)
    return prepared


def parse_array_output(out: str | None, *, work: str | None) -> Output:
    """Return the place that a plan was made for.

    Raises:
        WrongUse: as `output.output_named`.
    """
    output = parse_output(out, work=work)
    if output.url is not None and (output.work / "job.json").exists():
        return replace(output, storage=BuildJob.read(output.work).output.storage)
    return output


def run_share(output: Output, share: TaskShare) -> int:
    """Write the shards of one share that are not there; return how many these were.

    Raises:
        ValueError, OSError: if there is no plan, or as `task.run_task`.
    """
    if output.is_complete:
        return 0
    work = _check_plan_exists(output)
    with explain_storage_errors(output), lock_output(output, shared=True):
        plan = read_plan(work)
        mine = range(share.number, len(plan.shards), share.of)
        missing = [i for i in mine if read_result(work, plan.shards[i], output=output) is None]
        dialogues = sum(plan.shards[i].end - plan.shards[i].start for i in missing)
        with show_progress("write shards", total=dialogues, unit="dialogues") as advance:
            run_tasks(work, missing, workers=1, on_dialogues=advance)
    return len(missing)


def finish_array_build(output: Output) -> BuildResult:
    """Publish what the tasks wrote; a set that is published already is left as it is.

    Raises:
        ValueError: if there is no plan, or naming the shards that are missing.
    """
    if output.is_complete:
        return read_published(output)
    _check_plan_exists(output)
    with explain_storage_errors(output), lock_output(output):
        return finish_build(output)


def _check_plan_exists(output: Output) -> Path:
    """Return the work folder, which must hold a plan."""
    if not (output.work / PUBLICATION).exists():
        raise ValueError(
            f"there is no plan in {output.folder}: make one with `vchat-prep plan --out {output}`"
        )
    return output.work
