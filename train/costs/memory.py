"""Memory of weights, gradients and optimizer per GPU, computed from parameter counts.

For a model that is trained whole in 16 bits the sums equal those of DeepSpeed's estimators
(`estimate_zero2_model_states_mem_needs`, `estimate_zero3_model_states_mem_needs`), which support
neither frozen parts nor fp32. Buffers of fixed size and fragmentation are not included.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vchat.model.four_bit import FourBitLinear
from vchat.train.costs.flops import shape_of

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
MOMENTS = 8
"""Bytes per trained parameter of AdamW's two running means, in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCounts:
    """Parameters of a model, shared ones counted once."""

    total: int
    """Including those stored in 4 bits."""

    trained: int
    largest_module: int
    """The most parameters that one module has itself: what ZeRO-3 gathers at a time."""

    four_bit: int = 0
    """Those stored in 4 bits."""

    four_bit_bytes: int = 0
    """Their codes and scales."""

    largest_four_bit: int = 0
    """The most of them in one layer, which converts them to floats each time it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateMemory:
    """Bytes on one GPU, and those that offloading moves to the memory of its machine."""

    weights: int
    gathered: int
    """Whole weights and gradients of the largest module under ZeRO-3; the largest 4-bit layer as
    floats."""

    gradients: int
    optimizer: int
    """AdamW's moments, and the fp32 copies of trained weights."""

    host: int
    """Offloaded, for each GPU."""

    @property
    def on_gpu(self) -> int:
        """The bytes on the GPU: all that are not offloaded."""
        return self.weights + self.gathered + self.gradients + self.optimizer


def weight_counts(model: nn.Module) -> WeightCounts:
    """Count the parameters of a model, which may be on the meta device."""
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
    counts: WeightCounts,
    *,
    precision: str,
    zero_stage: int,
    offloads_optimizer: bool = False,
    offloads_parameters: bool = False,
    num_gpus: int,
) -> StateMemory:
    """Return the bytes that one of `num_gpus` holds: between steps, and at most during one.

    Args:
        counts: The model's parameters.
        precision: A key of `BYTES`.
        zero_stage: 0 to 3.
        offloads_optimizer: Whether optimizer state and gradients are in the machine's memory.
        offloads_parameters: Whether the weights are.
        num_gpus: All GPUs of the run.
    """
    width, stage = BYTES[precision], zero_stage
    trained, share = counts.trained, 1 / num_gpus
    weights = width * (counts.total - counts.four_bit) * (share if stage == 3 else 1)
    narrow_gradients = width * trained * (share if stage >= 2 else 1)
    has_copies = width == 2 or stage > 0
    wide_bytes = (4 if stage < 3 else 2) if width == 2 else 0
    wide_gradients = wide_bytes * trained * (share if stage else 1)
    optimizer = (MOMENTS + 4 * has_copies) * trained * (share if stage else 1)
    host = 0.0
    if offloads_optimizer:
        host += optimizer + wide_gradients + narrow_gradients
        optimizer = wide_gradients = narrow_gradients = 0
    if offloads_parameters:
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
