"""Linear layers whose frozen weights take 4 bits each (QLoRA), quantised by bitsandbytes.

The weight is kept as integers only, the scales of its blocks as the bits of their floats: so a cast
of the model to another dtype leaves them alone, and they are saved and loaded like any buffer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from vchat.model.partitioning import gather_weights

BLOCK = 64
"""Neighbouring weights that share a scale."""


class FourBitLinear(nn.Linear):
    """A linear layer that reads its weight from 4-bit codes; only its bias could be trained."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        """Allocate codes and scales; `quantise` or a checkpoint fills them."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        size = in_features * out_features
        self.register_buffer("codes", torch.zeros(math.ceil(size / 2), 1, dtype=torch.uint8))
        self.register_buffer("scale_bits", torch.zeros(math.ceil(size / BLOCK), dtype=torch.int32))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))
        else:
            self.register_parameter("bias", None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """float32[out, in], computed at each access."""
        from bitsandbytes import functional as four_bit

        codes: Any = self.codes
        if codes.is_meta:
            return torch.empty(self.out_features, self.in_features, device="meta")
        state = four_bit.QuantState(
            absmax=self.scale_bits.view(torch.float32),  # type: ignore[operator]
            shape=torch.Size((self.out_features * self.in_features,)),  # flat, see below
            code=four_bit.get_4bit_type("nf4", device=codes.device),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=torch.float32,
        )
        # Blocks run over the ends of rows. bitsandbytes 0.50 takes scales of other blocks on CPUs
        # with AVX-512 when it is told of rows that are no whole number of blocks.
        weight: Tensor = four_bit.dequantize_4bit(codes, state)
        return weight.reshape(self.out_features, self.in_features)

    def quantise(self, weight: Tensor) -> None:
        """Replace the weight by float[out, in], rounded to codes."""
        from bitsandbytes import functional as four_bit

        codes, state = four_bit.quantize_4bit(
            weight.detach().float().contiguous(), blocksize=BLOCK, quant_type="nf4"
        )
        self.codes, self.scale_bits = codes, state.absmax.view(torch.int32)

    def forward(self, input: Tensor) -> Tensor:
        """Map float[..., in] to float[..., out]."""
        mapped: Tensor = _Matmul.apply(input, self)
        return mapped if self.bias is None else mapped + self.bias


class _Matmul(torch.autograd.Function):
    """Keeps the codes for the backward pass, not the weight they stand for."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(input, layer.weight.to(input.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def use_four_bits(module: nn.Module, names: list[str], *, same_weights: bool) -> None:
    """Replace linear layers by 4-bit ones.

    Args:
        same_weights: else the weights are zero, to be filled from a checkpoint; so on meta.
    """
    for name in names:
        plain = module.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        with torch.device(plain.weight.device):
            layer = FourBitLinear(
                plain.in_features, plain.out_features, bias=plain.bias is not None
            )
        if same_weights and not plain.weight.is_meta:
            with gather_weights(list(plain.parameters(recurse=False))):
                layer.quantise(plain.weight)
        layer.bias = plain.bias
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer)


def plain_linear(layer: FourBitLinear) -> nn.Linear:
    """Return an ordinary layer that computes the same."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    dtype = plain.weight.dtype if layer.bias is None else layer.bias.dtype
    plain.weight = nn.Parameter(layer.weight.to(dtype))
    if layer.bias is not None:
        plain.bias = layer.bias
    return plain
