"""Memory of weights, gradients and optimizer per GPU: arithmetic on parameter counts.

For a model that is trained whole in 16 bits the sums equal DeepSpeed's own estimators
(`estimate_zero2_model_states_mem_needs`, `estimate_zero3_model_states_mem_needs`), which know
neither frozen parts nor fp32. Buffers of fixed size and fragmentation are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vchat.model.four_bit import FourBitLinear
from vchat.train.config.run import DeepSpeedConfig
from vchat.train.costs.flops import shape_of

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
MOMENTS = 8
"""Bytes per trained parameter of AdamW's two running means, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCounts:
    """Parameters of a model, shared ones counted once."""

    total: int
    """Those kept in 4 bits among them."""

    trained: int
    largest_module: int
    """Most parameters that one module holds itself: what ZeRO-3 puts together at a time."""

    four_bit: int = 0
    """Of them, those kept in 4 bits."""

    four_bit_bytes: int = 0
    """Their codes and scales."""

    largest_four_bit: int = 0
    """Most of them in one layer, which makes them floats each time it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMemory:
    """Bytes on one GPU, and what offloading puts into the memory of its machine instead."""

    weights: int
    gathered: int
    """Weights and gradients of the largest module, whole, under ZeRO-3; the largest 4-bit layer as
    floats."""

    gradients: int
    optimizer: int
    """AdamW's moments, and the fp32 copies of trained weights."""

    host: int
    """Offloaded, for each GPU."""

    @property
    def on_gpu(self) -> int:
        """All but what is offloaded."""
        return self.weights + self.gathered + self.gradients + self.optimizer


def weight_counts(model: nn.Module) -> WeightCounts:
    """Count a model whose trained parameters are marked; it may be without memory."""
    parameters = list(model.parameters())
    four_bit = [module for module in model.modules() if isinstance(module, FourBitLinear)]
    of_each = [module.in_features * module.out_features for module in four_bit]
    return WeightCounts(
        total=sum(shape_of(p).numel() for p in parameters) + sum(of_each),
        trained=sum(shape_of(p).numel() for p in parameters if p.requires_grad),
        largest_module=max(
            sum(shape_of(p).numel() for p in module.parameters(recurse=False))
            for module in model.modules()
        ),
        four_bit=sum(of_each),
        four_bit_bytes=sum(b.nbytes for module in four_bit for b in module.buffers(recurse=False)),
        largest_four_bit=max(of_each, default=0),
    )


def state_memory(
    counts: WeightCounts, *, precision: str, sharding: DeepSpeedConfig, num_gpus: int
) -> StateMemory:
    """Return what one of `num_gpus` holds between two steps, and at most while it makes one."""
    width, stage = BYTES[precision], sharding.zero_stage
    trained, share = counts.trained, 1 / num_gpus
    weights = width * (counts.total - counts.four_bit) * (share if stage == 3 else 1)
    narrow_gradients = width * trained * (share if stage >= 2 else 1)
    has_copies = width == 2 or stage > 0
    wide_bytes = (4 if stage < 3 else 2) if width == 2 else 0
    wide_gradients = wide_bytes * trained * (share if stage else 1)
    optimizer = (MOMENTS + 4 * has_copies) * trained * (share if stage else 1)
    host = 0.0
    if sharding.offload_optimizer != "none":
        host += optimizer + wide_gradients + narrow_gradients
        optimizer = wide_gradients = narrow_gradients = 0
    if sharding.offload_parameters != "none":
        host += weights
        weights = 0
    gathered = 2 * width * counts.largest_module if stage == 3 else 0
    return StateMemory(
        weights=round(weights) + counts.four_bit_bytes,  # every process holds all of these
        gathered=gathered + (4 + width) * counts.largest_four_bit,
        gradients=round(narrow_gradients + wide_gradients),
        optimizer=round(optimizer),
        host=round(host),
    )
