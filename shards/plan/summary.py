"""Count what an epoch plan holds. The loader delivers exactly these numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.plan.window_packing import SampleNumbers


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """Totals over the steps of one epoch and all ranks, zero-weight rows included."""

    digest: str
    steps: int
    rows: int
    zero_weight_rows: int
    """Rows of padding only: they fill steps so that every rank has equally many rows."""

    samples: int
    excluded: int
    """Samples that no row can hold."""

    dropped: int
    """Samples in the rows of an incomplete last step, under `tail = "drop"`."""

    images: int
    text_tokens: int
    supervised_tokens: int
    image_positions: int
    padding: int
    """Positions that hold nothing."""

    padding_share: float
    fill_of_rows: float
    """Share of positions in use, zero-weight rows not counted: what packing achieves."""

    displacement: float
    """Mean distance of a sample from its rank in storage / samples; a uniform shuffle has 1/3."""

    shards_per_step: float
    """Mean number of different shards that the samples of a step come from."""

    sources: dict[str, int]
    """Samples per source."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values by field name."""
        return asdict(self)


def summarize_plan(
    plan: EpochPlan, *, rows_per_step: int, rows_per_micro_batch: int = 1, world_size: int = 1
) -> PlanSummary:
    """Add up the steps of one epoch for a topology; only padding depends on the topology."""
    steps = plan.num_steps(rows_per_step)
    rows = min(steps * rows_per_step, plan.num_rows)
    per_rank = math.ceil(rows_per_step / (world_size * rows_per_micro_batch)) * rows_per_micro_batch
    rows_read = steps * per_rank * world_size
    delivered = plan.samples[: plan.row_offsets[rows]]
    text = int(plan.index.text_tokens[delivered].sum(dtype=np.int64))
    positions = int(plan.positions_per_row[:rows].sum())
    tokens_per_row = plan.arguments.tokens_per_row
    return PlanSummary(
        digest=plan.digest,
        steps=steps,
        rows=rows,
        zero_weight_rows=rows_read - rows,
        samples=len(delivered),
        excluded=len(plan.excluded),
        dropped=len(plan.samples) - len(delivered),
        images=int(plan.images_per_row[:rows].sum()),
        text_tokens=text,
        supervised_tokens=int(plan.num_supervised_per_row[:rows].sum()),
        image_positions=positions - text,
        padding=rows_read * tokens_per_row - positions,
        padding_share=ratio(rows_read * tokens_per_row - positions, rows_read * tokens_per_row),
        fill_of_rows=ratio(positions, rows * tokens_per_row),
        displacement=displacement(delivered),
        shards_per_step=shards_per_step(plan, delivered, rows_per_step=rows_per_step),
        sources=samples_per_source(plan, delivered),
    )


def ratio(part: int, whole: int) -> float:
    """Return part / whole; 0 if the whole is 0."""
    return part / whole if whole else 0.0


def displacement(samples: SampleNumbers) -> float:
    """Return the mean distance of samples from their ranks in storage, as a share of all."""
    stored = np.empty(len(samples), np.int64)
    stored[np.argsort(samples, kind="stable")] = np.arange(len(samples))
    moved = int(np.abs(stored - np.arange(len(samples))).sum())
    return ratio(moved, len(samples) ** 2)


def shards_per_step(plan: EpochPlan, samples: SampleNumbers, *, rows_per_step: int) -> float:
    """Return the mean number of different shards among the samples of a step."""
    if len(samples) == 0:
        return 0.0
    row = np.searchsorted(plan.row_offsets, np.arange(len(samples)), side="right") - 1
    step = row // rows_per_step
    num_shards = int(plan.index.shard.max()) + 1
    pairs = np.unique(step * num_shards + plan.index.shard[samples])
    return len(pairs) / (int(step[-1]) + 1)


def samples_per_source(plan: EpochPlan, samples: SampleNumbers) -> dict[str, int]:
    """Return how many of these samples come from each source."""
    counts = np.bincount(plan.index.source[samples], minlength=len(plan.index.sources))
    return dict(zip(plan.index.sources, counts.tolist(), strict=True))
