"""Which keys each epoch of a run left out, and which the epochs to come will.

A run keeps the lists of its epochs ([exclude_lists.py](../checkpoints/exclude_lists.py)). Epochs
that no step of the run has begun will have the list of `data.exclude` as it is now.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat.train.checkpoints.exclude_lists import read_exclude_lists
from vchat.train.checkpoints.facts import check_resumable
from vchat.train.checkpoints.step_folder import find_newest
from vchat.train.logs.log import read_log

LOG = logging.getLogger(__name__)


def lists_of_run(out: Path, keys: tuple[str, ...]) -> ExcludeHistory:
    """Return the list of each epoch of the run in this folder, if there is one yet.

    Args:
        out: The run's folder.
        keys: What a run that starts now would leave out.
    """
    newest = find_newest(out)
    kept = read_exclude_lists(out)
    if kept is None and newest is not None:
        kept = read_exclude_lists(newest)
    epoch = max(_epoch_after_checkpoint(newest), _epoch_after_log(out))
    if kept is None:
        if epoch > 0:
            LOG.warning(
                "%s: made by a version that did not keep data.exclude; its epochs are taken to have"
                " left out what data.exclude names now",
                out,
            )
        return ExcludeHistory(lists=((0, keys),))
    if kept.lists[0][0] > 0:
        LOG.warning("%s: what was left out before epoch %d is not kept", out, kept.lists[0][0])
    return kept.change_from(epoch, keys)


def _epoch_after_checkpoint(newest: Path | None) -> int:
    """Return the first epoch that the newest checkpoint leaves free to have another list."""
    if newest is None:
        return 0
    state = open_checkpoint(newest).state
    check_resumable(newest / "state.json", state)
    return int(state["loader"]["epoch"]) + (int(state["loader"]["position"]) > 0)


def _epoch_after_log(out: Path) -> int:
    """Return the epoch after that of the last logged step; 0 if there is none."""
    log = out / "log.jsonl"
    if not log.is_file() or log.stat().st_size == 0:
        return 0
    epochs = (line["epoch"] for line in reversed(read_log(log)) if "epoch" in line)
    return int(next(epochs, -1)) + 1
