"""Which keys each epoch of a run leaves out, kept with the run: `data.exclude` may change.

    OUT/step-000100/exclude.json     as of this checkpoint
    OUT/exclude.json                 as of the latest start of the run

A run that starts again goes by the lists of its checkpoint up to the epoch in which it goes on, and
by its own `data.exclude` from there.
"""

from __future__ import annotations

from pathlib import Path

from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.train.checkpoints.checkpoint import Checkpoint
from vchat.train.checkpoints.step_folder import read_json, write_json

EXCLUDE_FILE = "exclude.json"


def write_exclude_lists(folder: Path, history: ExcludeHistory) -> None:
    """Write the lists into the folder of a run or of a step."""
    write_json(folder / EXCLUDE_FILE, history.as_json())


def read_exclude_lists(folder: Path) -> ExcludeHistory | None:
    """Read the lists of a run or a step; None if it was written before they were kept.

    Raises:
        ValueError: the file is not what `write_exclude_lists` writes.
    """
    file = folder / EXCLUDE_FILE
    if not file.is_file():
        return None
    return ExcludeHistory.from_json(read_json(file), name=str(file))


def continue_lists(checkpoint: Checkpoint | None, keys: tuple[str, ...]) -> ExcludeHistory:
    """Return the lists of a run that goes on from a checkpoint, or begins, with these keys."""
    # In mid-epoch the keys must be those of the checkpoint: the loader refuses others.
    epoch = 0 if checkpoint is None else int(checkpoint.state["loader"]["epoch"])
    before = None if checkpoint is None else read_exclude_lists(checkpoint.folder)
    return (before or ExcludeHistory(lists=((epoch, keys),))).change_from(epoch, keys)
