"""A build in three commands, for an array of jobs on machines that share the output folder.

`plan_array_build` converts the sources and stores the plan, once; `run_share` writes share i of n
of the shards, each in a job of its own; `finish_array_build` checks that all are there and
publishes. Jobs need the output folder (with a URL as output, the work folder) and the data at the
same paths, nothing else of each other. A job that was killed is run again. The bytes are those of a
plain build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from vchat.base.cli import WrongUse
from vchat.base.progress import show_progress
from vchat.prep.convert.recipe import Recipe
from vchat.prep.pipeline.build import recipe_output
from vchat.prep.pipeline.finish import BuildResult, finish_build, read_published, read_same_build
from vchat.prep.pipeline.planning import PlannedBuild, plan_build
from vchat.prep.pipeline.publication import PUBLICATION
from vchat.prep.pipeline.work_folder import explain_storage_errors, lock_output, write_work_folder
from vchat.prep.plan.plan import read_plan
from vchat.prep.tasks.job import JOB_FILE, BuildJob
from vchat.prep.tasks.local_engine import run_tasks
from vchat.prep.tasks.output import Output, parse_output
from vchat.prep.tasks.result import find_missing

_SHARE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """Every `of`-th shard, from shard `number` on; both counted from 0."""

    number: int
    of: int


def parse_share(text: str) -> TaskShare:
    """Return the share that `3/16` means.

    Raises:
        WrongUse: Unless 0 <= i < n.
    """
    match = _SHARE.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise WrongUse(f"--task {text}: want i/n with i from 0 to n - 1, such as 0/16 .. 15/16")
    return TaskShare(number=int(match[1]), of=int(match[2]))


def plan_array_build(recipe: Recipe) -> PlannedBuild:
    """Convert, decide the plan, and store it for the tasks.

    Raises:
        WrongUse, ValueError, OSError: As `build.build_shards`.
    """
    output = recipe_output(recipe)
    with explain_storage_errors(output), lock_output(output):
        is_complete = output.is_complete
        planned = plan_build(recipe, work=output.work)
        if is_complete:
            read_same_build(output, planned.plan)
        else:
            write_work_folder(planned, output)
    return planned


def parse_array_output(out: str | None, *, work: str | None) -> Output:
    """Return the place that a plan was made for.

    Raises:
        WrongUse: As `output.parse_output`.
    """
    output = parse_output(out, work=work)
    if output.url is not None and (output.work / JOB_FILE).exists():
        return replace(output, storage=BuildJob.read(output.work).output.storage)
    return output


def run_share(output: Output, share: TaskShare) -> int:
    """Write those shards of one share that are missing; return their number.

    Raises:
        ValueError, OSError: There is no plan, or as `task.run_task`.
    """
    if output.is_complete:
        return 0
    work = _check_plan_exists(output)
    with explain_storage_errors(output), lock_output(output, shared=True):
        plan = read_plan(work)
        mine = range(share.number, len(plan.shards), share.of)
        missing = find_missing(plan.shards, mine, output=output)
        dialogues = sum(plan.shards[i].end - plan.shards[i].start for i in missing)
        with show_progress("write shards", total=dialogues, unit="dialogues") as advance:
            run_tasks(work, missing, workers=1, on_dialogues=advance)
    return len(missing)


def finish_array_build(output: Output) -> BuildResult:
    """Publish what the tasks wrote; a set that is published already is left as it is.

    Raises:
        ValueError: There is no plan, or shards are missing; names them.
    """
    if output.is_complete:
        return read_published(output)
    _check_plan_exists(output)
    with explain_storage_errors(output), lock_output(output):
        return finish_build(output)


def _check_plan_exists(output: Output) -> Path:
    """Return the work folder.

    Raises:
        ValueError: It holds no plan.
    """
    if not (output.work / PUBLICATION).exists():
        raise ValueError(
            f"there is no plan in {output.folder}: make one with `vchat-prep plan --out {output}`"
        )
    return output.work
