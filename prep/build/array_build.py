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

from vchat.prep.build.build import Prepared, begin, clear_storage_errors, locked, output_of, prepare
from vchat.prep.build.finish import PUBLICATION, Built, already_complete, finish, published
from vchat.prep.build.output import Output, output_named
from vchat.prep.plan.plan import read_plan
from vchat.prep.build.pool import run_tasks
from vchat.prep.convert.recipe import Recipe
from vchat.prep.build.task import Job, read_result
from vchat.base.cli import WrongUse
from vchat.base.progress import progress

_SHARE = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Every `of`-th shard, from shard `number` on; both counted from 0."""

    number: int
    of: int


def share_named(text: str) -> Share:
    """Return the share that `3/16` means.

    Raises:
        WrongUse: unless 0 <= i < n.
    """
    match = _SHARE.fullmatch(text)
    if match is None or int(match[1]) >= int(match[2]):
        raise WrongUse(f"--task {text}: want i/n with i from 0 to n - 1, such as 0/16 .. 15/16")
    return Share(number=int(match[1]), of=int(match[2]))


def make_plan_folder(recipe: Recipe) -> Prepared:
    """Convert, decide the plan, and store it for the tasks.

    Raises:
        WrongUse, ValueError, OSError: as `build.build`.
    """
    output = output_of(recipe)
    with clear_storage_errors(output), locked(output):
        is_complete = output.is_complete
        prepared = prepare(recipe, work=output.work)
        if is_complete:
            already_complete(output, prepared.plan)
        else:
            begin(prepared, output)
    return prepared


def planned_output(out: str | None, *, work: str | None) -> Output:
    """Return the place that a plan was made for.

    Raises:
        WrongUse: as `output.output_named`.
    """
    output = output_named(out, work=work)
    if output.url is not None and (output.work / "job.json").exists():
        return replace(output, storage=Job.read(output.work).output.storage)
    return output


def run_share(output: Output, share: Share) -> int:
    """Write the shards of one share that are not there; return how many these were.

    Raises:
        ValueError, OSError: if there is no plan, or as `task.run_task`.
    """
    if output.is_complete:
        return 0
    work = _planned(output)
    with clear_storage_errors(output), locked(output, shared=True):
        plan = read_plan(work)
        mine = range(share.number, len(plan.shards), share.of)
        missing = [i for i in mine if read_result(work, plan.shards[i], output=output) is None]
        dialogues = sum(plan.shards[i].end - plan.shards[i].start for i in missing)
        with progress("write shards", total=dialogues, unit="dialogues") as advance:
            run_tasks(work, missing, workers=1, on_dialogues=advance)
    return len(missing)


def finish_folder(output: Output) -> Built:
    """Publish what the tasks wrote; a set that is published already is left as it is.

    Raises:
        ValueError: if there is no plan, or naming the shards that are missing.
    """
    if output.is_complete:
        return published(output)
    _planned(output)
    with clear_storage_errors(output), locked(output):
        return finish(output)


def _planned(output: Output) -> Path:
    """Return the work folder, which must hold a plan."""
    if not (output.work / PUBLICATION).exists():
        raise ValueError(
            f"there is no plan in {output.folder}: make one with `vchat-prep plan --out {output}`"
        )
    return output.work
