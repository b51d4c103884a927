"""What one forward pass of VisualChat gives. B rows, S positions, V rows of the output head."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from vchat.model.cached_layout import DialogueCache


@dataclass
class VisualChatOutput(ModelOutput):  # type: ignore[misc]
    """What one forward pass gives."""

    loss: Tensor | None = None
    """float32[], the sum over the supervised positions; only with labels."""

    target_losses: Tensor | None = None
    """float32[T], of each supervised position, row by row, without gradients; only with labels."""

    target_indices: Tensor | None = None
    """int64[T, 2], the row and the column of each supervised label; only with labels."""

    logits: Tensor | None = None
    """float[B, S, V], or the last `logits_to_keep` positions; only without labels."""

    past_key_values: DialogueCache | None = None
    """The cache, the given positions included; only with `use_cache`."""
