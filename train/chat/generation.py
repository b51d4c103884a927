"""Choose the next token from the logits of the last position, for chat and evaluation.

B prompts, V ids. Greedy by default. The slot id is never chosen: an answer contains no image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vchat.base.cli import WrongUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the tokens of an answer are chosen, and how many there may be."""

    max_new_tokens: int = 256
    """The most tokens of an answer, including its end token. A longer answer is cut."""

    temperature: float = 0.0
    """0 takes the most likely token; 1 samples from the model's distribution."""

    top_p: float = 1.0
    """Sample from the fewest tokens whose probabilities sum to this; unused at temperature 0."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise WrongUse(f"max new tokens is {self.max_new_tokens}, wanted at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise WrongUse(f"temperature is {self.temperature}, wanted 0 or more")
        if not 0 < self.top_p <= 1:
            raise WrongUse(f"top_p is {self.top_p}, wanted more than 0 and at most 1")


def next_ids(
    logits: Tensor,
    sampling: Sampling,
    *,
    slot_id: int,
    num_ids: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one id per prompt, int64[B], from logits float[B, V].

    Args:
        logits: Of the last position of each prompt.
        sampling: Temperature and top-p.
        slot_id: Never chosen.
        num_ids: No id of this number or above is chosen: a table may be padded beyond the
            tokenizer's ids.
        generator: Used only if the temperature is above 0.
    """
    logits = logits[:, :num_ids].float()
    slot = torch.arange(logits.shape[1], device=logits.device) == slot_id
    logits = logits.masked_fill(slot, float("-inf"))
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits / sampling.temperature).softmax(dim=-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the most likely ids whose sum first reaches `top_p`, at least one."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)
