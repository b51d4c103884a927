"""Plans kept on disk: one process of a node makes a plan, the others map the same file.

In: what a plan is made of. Out: the plan, its rows mapped into memory from
`FOLDER/<digest of the arguments>/`. A folder with `plan.json` is complete. Processes that ask at
once wait for one another by a lock on FOLDER itself, which ends with its holder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vchat.base.files import write_atomically
from vchat.base.locks import lock_folder
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import EpochPlan, plan_digest, plan_epoch
from vchat.shards.plan.plan_index import PlanIndex

log = logging.getLogger(__name__)

MAX_PLANS = 8
"""Kept in one folder; the ones used longest ago go first. A mapped plan survives its files."""

ARRAYS = ("row_offsets", "samples", "excluded")


def default_plan_folder() -> Path:
    """Return where the processes of a user keep plans unless told otherwise."""
    return Path.home() / ".cache" / "vchat" / "plans"


def load_or_make_plan(index: PlanIndex, arguments: PlanArguments, *, folder: Path) -> EpochPlan:
    """Return the plan of one epoch, mapped from the folder; it is made and put there if absent.

    Raises:
        ValueError: as `plan_epoch`.
        OSError: the folder cannot be written.
    """
    kept = folder / folder_name(index, arguments)
    with lock_folder(folder):
        plan = map_plan(kept, index, arguments)
        if plan is None:
            shutil.rmtree(kept, ignore_errors=True)
            write_plan(plan_epoch(index, arguments), kept)
            evict_oldest(folder)
            plan = map_plan(kept, index, arguments)
    assert plan is not None  # it has just been written, under the lock
    return plan


def folder_name(index: PlanIndex, arguments: PlanArguments) -> str:
    """Return the digest of everything a plan depends on."""
    described = json.dumps({"index": index.digest, **arguments.describe()}, sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def write_plan(plan: EpochPlan, kept: Path) -> None:
    """Write a plan's arrays, and last the file that makes it complete."""
    for name in ARRAYS:
        with write_atomically(kept / f"{name}.npy") as file:
            np.save(file, getattr(plan, name), allow_pickle=False)
    facts = {"digest": plan.digest, "num_tombstones": plan.num_tombstones}
    with write_atomically(kept / "plan.json") as file:
        file.write(json.dumps(facts).encode())


def map_plan(kept: Path, index: PlanIndex, arguments: PlanArguments) -> EpochPlan | None:
    """Return the plan in a folder, or None if none is complete there or its rows are not as named.

    Cost: one pass over the rows for the digest.
    """
    try:
        facts: dict[str, Any] = json.loads((kept / "plan.json").read_text(encoding="utf-8"))
        arrays = {name: map_array(kept / f"{name}.npy") for name in ARRAYS}
    except FileNotFoundError:
        return None
    except ValueError as err:
        log.warning("%s is made anew: %s", kept, err)
        return None
    found = plan_digest(
        index, arguments, row_offsets=arrays["row_offsets"], samples=arrays["samples"]
    )
    if found != facts["digest"]:
        log.warning("%s is made anew: its rows have digest %s", kept, found)
        return None
    os.utime(kept)
    return EpochPlan(
        digest=found,
        arguments=arguments,
        index=index,
        num_tombstones=facts["num_tombstones"],
        **arrays,
    )


def map_array(path: Path) -> NDArray[Any]:
    """Return a read-only view of the array in a `.npy` file; its pages are read when used."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.view(np.ndarray)


def evict_oldest(folder: Path) -> None:
    """Remove all but the plans used last."""
    by_use = sorted(folder.iterdir(), key=lambda kept: kept.stat().st_mtime, reverse=True)
    for kept in by_use[MAX_PLANS:]:
        shutil.rmtree(kept)
