"""Copies of the log in TensorBoard and Weights & Biases, if RUN.toml asks for them. Rank 0 only."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from vchat.base.cli import WrongUse


class Tracker(Protocol):
    """A receiver of the numbers of each step."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of one step."""

    def close(self) -> None:
        """Flush and close."""


def open_trackers(
    out: Path,
    *,
    first_step: int,
    tensorboard: bool,
    wandb_project: str | None,
    settings: Mapping[str, Any],
) -> list[Tracker]:
    """Open the trackers of a run; a resumed run continues its curves after `first_step`.

    Args:
        out: the run's folder.
        settings: of the run, by section and key, for Weights & Biases to show.

    Raises:
        WrongUse: the package is not installed.
    """
    trackers: list[Tracker] = []
    if tensorboard:
        trackers.append(TensorBoard(out / "tensorboard", first_step=first_step))
    if wandb_project is not None:
        trackers.append(WeightsAndBiases(out, project=wandb_project, settings=settings))
    return trackers


class TensorBoard:
    """Event files in a folder, for `tensorboard --logdir`."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Hide what an interrupted run wrote about later steps, which are repeated."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise WrongUse(_not_installed("run.tensorboard", "tensorboard")) from err
        purge = first_step + 1 if first_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)  # type: ignore[no-untyped-call]

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add one point to each curve, flushed for readers."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)  # type: ignore[no-untyped-call]
        self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()  # type: ignore[no-untyped-call]


class WeightsAndBiases:
    """A run in a project at Weights & Biases, named and resumed by the folder of our run."""

    def __init__(self, out: Path, *, project: str, settings: Mapping[str, Any]) -> None:
        """Start the run, or resume the one that `out` names."""
        try:
            import wandb
        except ImportError as err:
            raise WrongUse(_not_installed("run.wandb", "wandb")) from err
        self._run: Any = wandb.init(
            project=project,
            name=out.name,
            id=_wandb_id(out),
            resume="allow",
            dir=str(out),
            config=dict(settings),
        )

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a step; steps that were logged before keep their values."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _wandb_id(out: Path) -> str:
    """Return the id of the run, kept in its folder so that a resumed run has the same."""
    file = out / "wandb-id"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()


def _not_installed(setting: str, package: str) -> str:
    return f"{setting}: {package} is not installed; pip install 'vchat[watch]'"
