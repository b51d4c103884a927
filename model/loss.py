"""Cross entropy at the supervised positions only, a chunk of them at a time.

A vocabulary of 128k ids at 4,096 positions would need 2 GB of logits, most of them for positions
that nobody supervises. Here the caller passes only the supervised positions, and the gradients of a
chunk are computed together with its loss, so that no logits outlive their chunk.

T: supervised positions, D: decoder width, V: rows of the output head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LOGITS_PER_CHUNK = 2**24
"""How many logits exist at one time: 64 MB in float32."""


class SummedCrossEntropy(nn.Module):
    """The sum of the cross entropies of T positions.

    A module of its own without parameters: ZeRO-3 gathers the head's weight for one call of a
    module, so the loop over chunks, whose length differs between ranks, must stay inside one.
    """

    def forward(
        self, hidden: Tensor, head: nn.Linear, targets: Tensor, *, losses: Tensor | None = None
    ) -> Tensor:
        """Return float32[]; 0 with a gradient graph if T is 0.

        Args:
            hidden: float[T, D], what the head reads.
            head: the output head, [V, D] with or without bias.
            targets: int64[T], the id each position must predict.
            losses: float32[T], filled with every position's own loss, without a gradient.
        """
        if losses is None:
            losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        loss: Tensor = _SummedCrossEntropy.apply(
            hidden, head.weight, head.bias, targets, losses, torch.is_grad_enabled()
        )
        return loss


class _SummedCrossEntropy(torch.autograd.Function):
    """Loss and gradients chunk by chunk in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        losses: Tensor,
        with_gradient: bool,
    ) -> Tensor:
        wanted = [with_gradient and needed for needed in ctx.needs_input_grad[:3]]
        gradients = [
            torch.zeros_like(tensor, dtype=torch.float32) if want and tensor is not None else None
            for want, tensor in zip(wanted, (hidden, weight, bias), strict=True)
        ]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(1, LOGITS_PER_CHUNK // weight.shape[0])
        for start in range(0, len(targets), rows):
            chunk = slice(start, start + rows)
            logits = functional.linear(hidden[chunk], weight, bias).float()
            losses[chunk] = functional.cross_entropy(logits, targets[chunk], reduction="none")
            loss += losses[chunk].sum()
            if any(wanted):
                _add_gradients(gradients, chunk, logits, hidden[chunk], weight, targets[chunk])
        ctx.save_for_backward(
            *(None if gradient is None else gradient.to(hidden.dtype) for gradient in gradients)
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        # In float32, because a loss scale of 2**16 does not fit float16.
        scaled = (None if g is None else (g.float() * scale).to(g.dtype) for g in ctx.saved_tensors)
        return (*scaled, None, None, None)


def _add_gradients(
    gradients: list[Tensor | None],
    chunk: slice,
    logits: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
) -> None:
    """Add one chunk's share to the gradients of hidden, weight and bias, in place."""
    of_logits = logits.softmax(dim=-1)
    of_logits[torch.arange(len(targets), device=targets.device), targets] -= 1.0
    of_hidden, of_weight, of_bias = gradients
    narrow = of_logits.to(hidden.dtype)
    if of_hidden is not None:
        of_hidden[chunk] = (narrow @ weight).float()
    if of_weight is not None:
        of_weight += (narrow.T @ hidden).float()
    if of_bias is not None:
        of_bias += of_logits.sum(dim=0)
