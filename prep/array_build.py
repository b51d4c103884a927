"""A build in three commands, for an array of jobs on machines that share the output folder.

`make_plan_folder` converts the sources and stores the plan, once; `run_share` writes share i of n
of its shards, each in a job of its own; `finish_folder` checks that all are there and publishes.
Jobs need the output folder and the data at the same paths, nothing else of each other. A job that
was killed is run again. The bytes are those of a plain build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vchat.prep.build import Prepared, begin, clear_storage_errors, locked, prepare, work_folder
from vchat.prep.finish import PUBLICATION, Built, already_complete, finish, published
from vchat.prep.plan import read_plan
from vchat.prep.pool import run_tasks
from vchat.prep.recipe import Recipe
from vchat.prep.task import read_result
from vchat.shards.command import WrongUse
from vchat.shards.progress import progress

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
    out, work = work_folder(recipe)
    with locked(work), clear_storage_errors(out):
        prepared = prepare(recipe, work=work)
        if (out / "manifest.json").exists():
            already_complete(out, prepared.plan)
        else:
            begin(prepared, out=out, work=work)
    return prepared


def run_share(out: Path, share: Share) -> int:
    """Write the shards of one share that are not there; return how many these were.

    Raises:
        ValueError, OSError: if there is no plan, or as `task.run_task`.
    """
    if (out / "manifest.json").exists():
        return 0
    work = _planned(out)
    with locked(work, shared=True), clear_storage_errors(out):
        plan = read_plan(work)
        mine = range(share.number, len(plan.shards), share.of)
        missing = [i for i in mine if read_result(work, plan.shards[i], out=out) is None]
        dialogues = sum(plan.shards[i].end - plan.shards[i].start for i in missing)
        with progress("write shards", total=dialogues, unit="dialogues") as advance:
            run_tasks(work, missing, workers=1, on_dialogues=advance)
    return len(missing)


def finish_folder(out: Path) -> Built:
    """Publish what the tasks wrote; a set that is published already is left as it is.

    Raises:
        ValueError: if there is no plan, or naming the shards that are missing.
    """
    if (out / "manifest.json").exists():
        return published(out)
    work = _planned(out)
    with locked(work), clear_storage_errors(out):
        return finish(out, work=work)


def _planned(out: Path) -> Path:
    """Return the work folder, which must hold a plan."""
    work = out / ".work"
    if not (work / PUBLICATION).exists():
        raise ValueError(f"there is no plan in {out}: make one with `vchat-prep plan --out {out}`")
    return work
