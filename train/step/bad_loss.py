"""Losses that are not finite or too high: name the samples and stop, or skip the micro-batch.

A micro-batch is skipped by replacing it with a zero-weight one on all ranks, so the ranks stay in
step under every ZeRO stage; the step's loss is still divided by the planned number of tokens.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import deepspeed
import torch
import torch.distributed as dist

from vchat.shards.loading.collate import IGNORED, Batch
from vchat.train.config.run import OptimizerConfig
from vchat.train.engine.engine import BatchLoss, batch_loss
from vchat.train.step.tally import StepTally

MAX_NAMED_SAMPLES = 20
NUM_RECENT_STEPS = 50
MIN_RECENT_STEPS = 10


class LossLimit:
    """The limit of the mean loss per token; with `spike_factor` it follows the latest steps.

    The remembered losses are saved: a resumed run decides as if it had not stopped.
    """

    def __init__(self, settings: OptimizerConfig, *, recent: Iterable[float] = ()):
        """Start from `recent`, the losses of the latest steps, oldest first."""
        self.skips = settings.on_bad_loss == "skip"
        self._settings = settings
        self.recent: deque[float] = deque(recent, maxlen=NUM_RECENT_STEPS)

    @property
    def highest(self) -> float:
        """The highest loss that is not bad; infinite if nothing limits it."""
        highest = math.inf if self._settings.max_loss is None else self._settings.max_loss
        factor = self._settings.spike_factor
        if factor is not None and len(self.recent) >= MIN_RECENT_STEPS:
            highest = min(highest, factor * statistics.median(self.recent))
        return highest

    def is_bad(self, mean_loss: float) -> bool:
        """Whether a mean loss per token is not finite, or above the limit."""
        return not math.isfinite(mean_loss) or mean_loss > self.highest

    def remember(self, loss: float) -> None:
        """Add the loss of a whole step to the latest ones."""
        self.recent.append(loss)


def compute_loss(
    engine: deepspeed.DeepSpeedEngine, batch: Batch, *, limit: LossLimit, tally: StepTally
) -> BatchLoss:
    """Return the loss of a micro-batch, or of a zero-weight one if it is skipped.

    All ranks skip together if the loss of one is bad. Only `on_bad_loss = "skip"` costs an
    all-reduce per micro-batch.
    """
    loss = batch_loss(engine, batch)
    if limit.skips:
        bad = limit.is_bad(float(loss.loss_sum.detach()) / max(1, batch.num_supervised))
        if is_true_on_any_rank(bad, engine.device):
            tally.skip(batch, is_cause=bad)
            loss = batch_loss(engine, make_zero_weight(batch))
    return loss


def stop_if_bad(loss: float, step: int, *, limit: LossLimit, tally: StepTally) -> None:
    """Raise on all ranks if the loss of a step is bad, naming the samples that caused it.

    Raises:
        ValueError: with the keys of the micro-batches whose own loss is bad.
    """
    if not limit.is_bad(loss):
        return
    mine = [key for keys, mean in tally.mean_losses() if limit.is_bad(mean) for key in keys]
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    keys = [key for of_rank in gathered for key in of_rank]
    above = f", above the limit {limit.highest:.4g}" if math.isfinite(loss) else ""
    raise ValueError(
        f"step {step}: the loss is {loss}{above}, nothing is saved since the last checkpoint; "
        f"{len(keys)} samples in the micro-batches concerned: "
        f"{', '.join(keys[:MAX_NAMED_SAMPLES])} "
        '(optimizer.on_bad_loss = "skip" goes on without such micro-batches)'
    )


def is_true_on_any_rank(claim: bool, device: torch.device) -> bool:
    """Whether the claim is true on any rank."""
    count = torch.tensor(float(claim), device=device)
    dist.all_reduce(count)
    return bool(count > 0)


def make_zero_weight(batch: Batch) -> Batch:
    """Return the micro-batch as zero-weight rows: no image, no label, padding only."""
    return replace(
        batch,
        pixels=batch.pixels[:0],
        token_ids=torch.zeros_like(batch.token_ids),
        labels=torch.full_like(batch.labels, IGNORED),
        segment_ids=torch.zeros_like(batch.segment_ids),
        num_supervised=0,
        keys=[[] for _ in batch.keys],
    )
