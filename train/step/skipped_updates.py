"""Steps that change no weight: in fp16, gradients overflow, and DeepSpeed skips the update.

It then halves the loss scale and goes on. The rows of such a step are read and lost, so they are
counted; a few at the start of a run are normal, until the scale fits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import deepspeed

MAX_IN_A_ROW = 10
"""After so many steps in a row without an update, the run ends."""

_AT_LOWEST_SCALE = "Current loss scale already at minimum"
"""How DeepSpeed says, in a bare Exception, that it cannot lower the scale."""


class SkippedUpdates:
    """Counts the steps of a run that made no update, equally on all ranks.

    The counts are saved: a resumed run counts on.
    """

    def __init__(self, counts: Mapping[str, int] | None = None):
        """Start from saved counts."""
        counts = counts or {}
        self.num_steps, self.num_rows, self.num_in_a_row = (
            int(counts.get(name, 0)) for name in ("steps", "rows", "in_a_row")
        )

    def counts(self) -> dict[str, int]:
        """Return the counts, to be saved."""
        return {"steps": self.num_steps, "rows": self.num_rows, "in_a_row": self.num_in_a_row}

    def count_step(self, engine: deepspeed.DeepSpeedEngine, *, rows: int) -> dict[str, Any]:
        """Count a step that the engine has just made; return the values for the log.

        Args:
            engine: Behind the last micro-batch of the step.
            rows: Of the step, over all ranks.
        """
        if engine.was_step_applied():
            self.num_in_a_row = 0
        else:
            self.num_steps += 1
            self.num_rows += rows
            self.num_in_a_row += 1
        if not engine.fp16_enabled() and not self.num_steps:
            return {}
        scale = {"loss_scale": engine.optimizer.loss_scale} if engine.fp16_enabled() else {}
        return scale | {"skipped_steps": self.num_steps, "skipped_rows": self.num_rows}

    def stop_if_stuck(self, step: int) -> None:
        """Raise ValueError, on all ranks, after `MAX_IN_A_ROW` steps in a row without an update."""
        if self.num_in_a_row >= MAX_IN_A_ROW:
            raise ValueError(_describe_stuck(step, f"the last {self.num_in_a_row} steps"))

    def describe(self) -> str:
        """Return how many steps made no update, in words; empty if none."""
        if not self.num_steps:
            return ""
        return (
            f"; {self.num_steps} steps ({self.num_rows} rows) made no update, since their fp16"
            " gradients overflowed"
        )


@contextlib.contextmanager
def explain_lowest_scale(step: int) -> Iterator[None]:
    """Name the step if DeepSpeed ends it because the loss scale cannot fall further.

    Raises:
        ValueError: in place of what DeepSpeed raises.
    """
    try:
        yield
    except Exception as err:
        if not str(err).startswith(_AT_LOWEST_SCALE):
            raise
        raise ValueError(_describe_stuck(step, "steps down to the lowest loss scale")) from err


def _describe_stuck(step: int, what: str) -> str:
    return (
        f"step {step}: {what} made no update, since fp16 gradients overflow; nothing is saved since"
        ' the last checkpoint; train.precision = "bf16" has no such limit, a lower optimizer.lr may'
        " help if the loss has grown"
    )
