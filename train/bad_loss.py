"""Losses that are not a number, infinite or too high: found, named by sample, stopped or skipped.

A micro-batch is skipped by putting an empty one in its place on all ranks, so the ranks stay in
step under every ZeRO stage; the step's loss is still divided by the planned number of tokens.
"""

from __future__ import annotations

import math
from dataclasses import replace

import deepspeed
import torch
import torch.distributed as dist
from vchat.shards.collate import IGNORED, Batch
from vchat.train.config import OptimizerConfig
from vchat.train.engine import BatchLoss, batch_loss
from vchat.train.tally import Tally

NAMED_SAMPLES = 20


def checked_loss(
    engine: deepspeed.DeepSpeedEngine, batch: Batch, *, limits: OptimizerConfig, tally: Tally
) -> BatchLoss:
    """Return the loss of a micro-batch, or of an empty one in its place if it is skipped.

    All ranks skip together if the loss of one is bad. Only `on_bad_loss = "skip"` costs a message
    per micro-batch.
    """
    loss = batch_loss(engine, batch)
    if limits.on_bad_loss == "skip":
        bad = is_bad(float(loss.summed.detach()) / max(1, batch.num_supervised), limits)
        if any_rank(bad, engine.device):
            tally.skip(batch, named=bad)
            loss = batch_loss(engine, emptied(batch))
    return loss


def stop_if_bad(loss: float, step: int, *, limits: OptimizerConfig, tally: Tally) -> None:
    """Raise on all ranks if the loss of a step is bad, naming the samples that made it so.

    Raises:
        ValueError: with the keys of the micro-batches whose own loss is bad.
    """
    if not is_bad(loss, limits):
        return
    mine = [key for keys, mean in tally.mean_losses() if is_bad(mean, limits) for key in keys]
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    keys = [key for of_rank in gathered for key in of_rank]
    raise ValueError(
        f"step {step}: the loss is {loss}, nothing is saved since the last checkpoint; "
        f"{len(keys)} samples in the micro-batches concerned: {', '.join(keys[:NAMED_SAMPLES])} "
        '(optimizer.on_bad_loss = "skip" goes on without such micro-batches)'
    )


def is_bad(mean_loss: float, limits: OptimizerConfig) -> bool:
    """Whether a mean loss per token is not finite, or above the limit if there is one."""
    too_high = limits.max_loss is not None and mean_loss > limits.max_loss
    return not math.isfinite(mean_loss) or too_high


def any_rank(claim: bool, device: torch.device) -> bool:
    """Whether the claim is true on any rank."""
    count = torch.tensor(float(claim), device=device)
    dist.all_reduce(count)
    return bool(count > 0)


def emptied(batch: Batch) -> Batch:
    """The micro-batch as zero-weight rows: no image, no label, padding only."""
    return replace(
        batch,
        pixels=batch.pixels[:0],
        token_ids=torch.zeros_like(batch.token_ids),
        labels=torch.full_like(batch.labels, IGNORED),
        segment_ids=torch.zeros_like(batch.segment_ids),
        num_supervised=0,
        keys=[[] for _ in batch.keys],
    )
