"""Held-out loss: every sample of the eval split exactly once, divided over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from vchat.model.visual_chat import VisualChat
from vchat.train.engine.engine import batch_loss
from vchat.train.run.data import RunData
from vchat.train.step.source_losses import SourceLosses


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLoss:
    """The result of one pass over the eval split, over all ranks."""

    source_losses: SourceLosses
    num_samples: int

    @property
    def loss(self) -> float:
        """Mean cross entropy per supervised token."""
        means, tokens = self.source_losses.means(), self.source_losses.num_tokens()
        return sum(means[name] * tokens[name] for name in means) / max(1, sum(tokens.values()))

    def log_values(self) -> dict[str, Any]:
        """Return the values for the log."""
        return {"eval_loss": self.loss, "eval_loss_by_source": self.source_losses.means()}


@torch.no_grad()
def measure_heldout_loss(
    engine: deepspeed.DeepSpeedEngine | VisualChat, data: RunData
) -> HeldOutLoss:
    """Return the mean cross entropy over the supervised tokens of the eval split, and by source.

    The same for any world size and micro-batch: zero-weight rows fill the last step. All ranks
    call it and get the same numbers.
    """
    engine.eval()
    loader = data.heldout_loader()
    losses, keys = SourceLosses(loader.index.sources), 0
    for batch in data.heldout_batches(loader):
        losses.add(batch, batch_loss(engine, batch))
        keys += sum(map(len, batch.keys))
    engine.train()
    counted = torch.tensor([keys], dtype=torch.float64, device=engine.device)
    sums = torch.cat([losses.sums(engine.device), counted])
    dist.all_reduce(sums)
    *of_sources, samples = sums.tolist()
    return HeldOutLoss(source_losses=losses.with_sums(of_sources), num_samples=round(samples))
