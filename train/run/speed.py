"""The speed of a run as a share of the peak of its accelerators (MFU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vchat.model.visual_chat import VisualChat
from vchat.train.costs.flops import Flops, flops_of, pairs_of_epoch
from vchat.train.costs.gpus import find_gpu
from vchat.train.run.data import RunData
from vchat.train.step.tally import StepTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedMeter:
    """Turns the counts of a step into operations per second."""

    flops: Flops
    pairs_per_position: float
    """Attended pairs per position, the mean of the first epoch."""

    peak_tflops: float | None
    """Peak of all accelerators together; None if it is not known."""

    def measure(self, totals: StepTotals) -> dict[str, Any]:
        """Return the values for the log: 10^12 operations per second, and the share of the peak."""
        operations = self.flops.total(
            positions=totals.tokens,
            pairs=totals.tokens * self.pairs_per_position,
            supervised=totals.supervised,
            images=totals.images,
        )
        tflops = operations / totals.seconds / 1e12
        share = {} if self.peak_tflops is None else {"mfu": round(tflops / self.peak_tflops, 4)}
        return {"tflops": float(f"{tflops:.4g}"), **share}


def build_speed_meter(
    model: VisualChat, data: RunData, *, gpu_tflops: float | None, world_size: int
) -> SpeedMeter:
    """Count the operations of a model whose trained parameters are marked.

    Args:
        gpu_tflops: peak of one accelerator; if None, the one that `gpus.py` lists.
    """
    plan = data.loader.plan(0)
    positions = int(plan.positions_per_row.sum())
    if gpu_tflops is None and torch.cuda.is_available():
        known = find_gpu(torch.cuda.get_device_name())
        gpu_tflops = known.tflops if known else None
    pairs = pairs_of_epoch(plan, attention=model.config.attention)
    return SpeedMeter(
        flops=flops_of(model),
        pairs_per_position=pairs / max(1, positions),
        peak_tflops=None if gpu_tflops is None else gpu_tflops * world_size,
    )
