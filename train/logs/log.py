"""The log of a run: one JSON line per logged step in OUT/log.jsonl, and progress on stderr.

TensorBoard and Weights & Biases get the same values, see `trackers.py`.

Only rank 0 writes. A resumed run first drops the lines of steps that it repeats, so that every step
is in the file once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vchat.base.files import write_atomically
from vchat.base.terminal_text import echo
from vchat.train.logs.trackers import Tracker

PLAIN_EVERY_S = 10.0


class TrainingLog:
    """Append JSON lines and show progress; does nothing on ranks other than 0.

    Use as a context manager: the file and the progress bar are closed at the end of the block.
    """

    def __init__(
        self,
        path: Path,
        *,
        rank: int,
        first_step: int,
        total_steps: int,
        open_trackers: Callable[[], list[Tracker]] = list,
    ):
        """Drop the lines after `first_step`, the last step made, from an existing file.

        `open_trackers` is called on rank 0 only.
        """
        self._total_steps = total_steps
        self._shown_at = time.monotonic()
        self._file = None
        self._progress: Progress | None = None
        self._trackers: list[Tracker] = []
        if rank != 0:
            return
        self._trackers = open_trackers()
        drop_later_lines(path, step=first_step)
        self._file = path.open("a", encoding="utf-8")
        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = _make_bar(console)
            self._task = self._progress.add_task(
                "train", total=total_steps, completed=first_step, last=""
            )

    def __enter__(self) -> TrainingLog:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def write(self, step: int, **values: Any) -> None:
        """Append one line of JSON values, flushed for readers."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(step, flatten_values(values))

    def show(self, step: int, text: str) -> None:
        """Advance the bar, or print a plain line if the last one is 10 seconds old."""
        if self._file is None:
            return
        if self._progress is not None:
            self._progress.update(self._task, completed=step, last=text)
            return
        now = time.monotonic()
        if step == self._total_steps or now - self._shown_at >= PLAIN_EVERY_S:
            self._shown_at = now
            echo(f"step {step}/{self._total_steps}  {text}", err=True)


def progress_text(values: Mapping[str, Any]) -> str:
    """Format the latest step for the progress bar: loss, speed, waiting, padding, memory.

    In fp16 the loss scale too, and how many steps of the run made no update.
    """
    parts = [f"loss {values['loss']:.4f}", f"{values['tokens_per_s']:.0f} tokens/s"]
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.1%}")
    if "loss_scale" in values:
        parts.append(f"scale {values['loss_scale']:g}")
    if values.get("skipped_steps"):
        parts.append(f"skipped {values['skipped_steps']} steps, {values['skipped_rows']} rows")
    return "  ".join(
        [
            *parts,
            f"wait {values['data_wait_share']:.0%}",
            f"padding {values['padding_share']:.0%}",
            f"{values['memory_gb']:.1f} GB",
        ]
    )


def flatten_values(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the values of a step, those by source as `name/source`."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{part}": float(number) for part, number in value.items()}
        elif isinstance(value, int | float):
            numbers[name] = float(value)
    return numbers


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log. Raises ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no log; want the run.out folder of a run")
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as err:
            raise ValueError(f"{path}: line {number} is not JSON: {err}") from err
    if not lines:
        raise ValueError(f"{path}: the log is empty")
    return lines


def drop_later_lines(path: Path, *, step: int) -> None:
    """Drop the lines of later steps, and a last line that a crash truncated."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_up_to(line, step)]
    with write_atomically(path) as file:
        file.write("".join(f"{line}\n" for line in kept).encode())


def _is_up_to(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (json.JSONDecodeError, KeyError):
        return False


def _make_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=console,
    )
