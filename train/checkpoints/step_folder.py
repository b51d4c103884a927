"""The step folders of a run: their names, which are whole, and how all ranks write one.

All ranks write into `OUT/.step-000100.part` and report beside it what they wrote; the rename to its
name is the last thing that happens, so a folder with the name `step-...` is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vchat.base.files import inherit_permissions, sha256_file, write_atomically
from vchat.train.checkpoints.facts import describe_wrong_entry

_STEP = re.compile(r"step-(\d{6,})")


def find_newest(out: Path) -> Path | None:
    """Return the complete folder of the highest step in `out`, or None; `latest` is not read."""
    for step in sorted(step_folders(out), reverse=True):
        folder = out / step_name(step)
        if find_defect(folder) is None:
            return folder
    return None


def step_folders(out: Path) -> list[int]:
    """Return the steps that have a folder in `out`, complete or not, ascending."""
    if not out.is_dir():
        return []
    steps = (parse_step(entry.name) for entry in out.iterdir() if entry.is_dir())
    return sorted(step for step in steps if step is not None)


def parse_step(name: str) -> int | None:
    """Return the step that a folder is named after, or None."""
    match = _STEP.fullmatch(name.rstrip("/"))
    return int(match[1]) if match else None


def step_name(step: int) -> str:
    """Return the folder name of a step: `step-000100`."""
    return f"step-{step:06d}"


def find_defect(folder: Path) -> str | None:
    """Describe what a step folder lacks, or return None. Sizes are compared, contents not read."""
    listing = folder / "files.json"
    if not listing.is_file():
        return "files.json is missing: the checkpoint was not finished"
    for name, facts in read_json(listing).items():
        problem = describe_wrong_entry(name, facts)
        if problem is not None:
            return problem
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != facts["size_bytes"]:
            return f"{name} has {file.stat().st_size} bytes, want {facts['size_bytes']}"
    return None


def create_part_folder(out: Path, *, step: int) -> Path:
    """Make the empty folder that all ranks write into. One process calls it."""
    part, reports = part_folder(out, step=step), _reports_folder(out, step=step)
    for folder in (part, reports):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    (part / "rng").mkdir()
    return part


def part_folder(out: Path, *, step: int) -> Path:
    """Return the folder of the checkpoint of a step until it is complete."""
    return out / f".{step_name(step)}.part"


def report_files(out: Path, names: Iterable[str], *, step: int, rank: int) -> None:
    """Report to rank 0 that these files are written, with their sizes and digests."""
    facts = file_facts(part_folder(out, step=step), names)
    write_json(_reports_folder(out, step=step) / f"rank-{rank:05d}.json", facts)


def finish_after_all_ranks(
    out: Path,
    *,
    step: int,
    num_ranks: int,
    keep_last: int,
    outside_facts: Mapping[str, dict[str, Any]],
    cancel: threading.Event,
) -> Path | None:
    """Wait for all other ranks, then finish the checkpoint. Files that they do not report are ours.

    Args:
        outside_facts: of files outside the folder that it refers to.

    Returns:
        The complete folder, or None if `cancel` was set before: another rank may be gone.
    """
    part, reports = part_folder(out, step=step), _reports_folder(out, step=step)
    files = [reports / f"rank-{rank:05d}.json" for rank in range(1, num_ranks)]
    facts = dict(outside_facts)
    for file in files:
        while not file.is_file():
            if cancel.wait(0.02):
                return None
        facts |= read_json(file)
    facts |= file_facts(part, [name for name in file_names(part) if name not in facts])
    finish_checkpoint(out, step=step, facts=facts, keep_last=keep_last)
    return out / step_name(step)


def _reports_folder(out: Path, *, step: int) -> Path:
    """Return the folder where the ranks report what they have written, one file each."""
    return out / f".{step_name(step)}.written"


def file_facts(part: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of the named files, read back after they are synced to disk."""
    facts = {}
    for name in names:
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
        facts[name] = {
            "size_bytes": (part / name).stat().st_size,
            "sha256": sha256_file(part / name),
        }
    return facts


def file_names(folder: Path) -> list[str]:
    """Return the relative names of all files below a folder, sorted, with forward slashes."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def finish_checkpoint(
    out: Path, *, step: int, facts: Mapping[str, dict[str, Any]], keep_last: int
) -> None:
    """Rename the written folder, point `latest` at it, remove old ones. One process calls it."""
    part, final = part_folder(out, step=step), out / step_name(step)
    write_json(part / "files.json", dict(sorted(facts.items())))
    for name in file_names(part):
        inherit_permissions(part / name)
    rename_into_place(part, final)
    shutil.rmtree(_reports_folder(out, step=step))
    with write_atomically(out / "latest") as file:
        file.write(f"{final.name}\n".encode())
    if keep_last:
        for old in [s for s in step_folders(out) if s <= step][:-keep_last]:
            _remove_folder(out / step_name(old))


def rename_into_place(part: Path, final: Path) -> Path:
    """Give a complete folder its name; an incomplete one of that name is removed."""
    if final.exists():
        _remove_folder(final)
    part.rename(final)
    return final


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON atomically."""
    with write_atomically(path) as file:
        file.write((json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _remove_folder(folder: Path) -> None:
    """Delete a step folder, renamed first, so that a half-deleted one is never found."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"{path}: not JSON: {err}") from err
    if not isinstance(value, dict):
        raise ValueError(f"{path}: want a JSON object, found {type(value).__name__}")
    return value
