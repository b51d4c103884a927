"""Plans on disk: one process of a node makes a plan, the others map the same file.

In: what a plan depends on. Out: the plan, its rows mapped into memory from
`FOLDER/<digest of the arguments>/`. A folder with `plan.json` is complete. A lock on FOLDER lets
one process at a time make or map a plan; it ends with the process.
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
"""How many plans a folder holds; the least recently used go first. A mapped plan survives this."""

ARRAYS = ("row_offsets", "samples", "excluded")


def default_plan_folder() -> Path:
    """Return the folder that all processes of a user share."""
    return Path.home() / ".cache" / "vchat" / "plans"


def load_or_make_plan(index: PlanIndex, arguments: PlanArguments, *, folder: Path) -> EpochPlan:
    """Return the plan of one epoch, mapped from the folder; makes and saves it if it is absent.

    Raises:
        ValueError: as `plan_epoch`.
        OSError: the folder cannot be written.
    """
    saved = folder / folder_name(index, arguments)
    with lock_folder(folder):
        plan = map_plan(saved, index, arguments)
        if plan is None:
            shutil.rmtree(saved, ignore_errors=True)
            write_plan(plan_epoch(index, arguments), saved)
            evict_oldest(folder)
            plan = map_plan(saved, index, arguments)
    assert plan is not None  # it has just been written, under the lock
    return plan


def folder_name(index: PlanIndex, arguments: PlanArguments) -> str:
    """Return the digest of everything a plan depends on."""
    inputs = json.dumps({"index": index.digest, **arguments.describe()}, sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()


def write_plan(plan: EpochPlan, folder: Path) -> None:
    """Write a plan's arrays, and last the file that makes it complete."""
    for name in ARRAYS:
        with write_atomically(folder / f"{name}.npy") as file:
            np.save(file, getattr(plan, name), allow_pickle=False)
    facts = {"digest": plan.digest, "num_tombstones": plan.num_tombstones}
    with write_atomically(folder / "plan.json") as file:
        file.write(json.dumps(facts).encode())


def map_plan(folder: Path, index: PlanIndex, arguments: PlanArguments) -> EpochPlan | None:
    """Return the plan in a folder; None if it is incomplete or its digest is not that of its rows.

    Cost: one pass over the rows for the digest.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        arrays = {name: map_array(folder / f"{name}.npy") for name in ARRAYS}
    except FileNotFoundError:
        return None
    except ValueError as err:
        log.warning("%s is unreadable, the plan is made again: %s", folder, err)
        return None
    found = plan_digest(
        index, arguments, row_offsets=arrays["row_offsets"], samples=arrays["samples"]
    )
    if found != facts["digest"]:
        log.warning("%s is damaged, the plan is made again: its rows have digest %s", folder, found)
        return None
    os.utime(folder)
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
    """Remove all but the most recently used plans."""
    by_use = sorted(folder.iterdir(), key=lambda saved: saved.stat().st_mtime, reverse=True)
    for saved in by_use[MAX_PLANS:]:
        shutil.rmtree(saved)
