"""Held-out loss: every sample of the eval split exactly once, shared out over all ranks."""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist
from vchat.train.data import RunData
from vchat.train.engine import batch_loss


@torch.no_grad()
def heldout_loss(engine: deepspeed.DeepSpeedEngine, data: RunData) -> float:
    """Return the mean cross entropy over the supervised tokens of the eval split.

    The same for any world size and micro-batch: zero-weight rows fill the last step. All ranks
    call it and get the same number.
    """
    engine.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=engine.device)
    for batch in data.heldout_batches():
        sums[0] += batch_loss(engine, batch).double()
        sums[1] += batch.num_supervised
    engine.train()
    dist.all_reduce(sums)
    loss_sum, num_supervised = sums.tolist()
    return float(loss_sum / max(1.0, num_supervised))
