"""Offloading to a local disk: what it needs, and a fix of how DeepSpeed reads gradients back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prepare_nvme() -> None:
    """Make DeepSpeed ready to offload to NVMe.

    Raises:
        ValueError: what DeepSpeed needs for it is not here.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from deepspeed.runtime.swap_tensor.partitioned_optimizer_swapper import (
        PartitionedOptimizerSwapper,
    )

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ValueError(
            "offloading to nvme needs the library libaio with its headers (Debian: libaio-dev) and "
            "g++: DeepSpeed compiles its reader at the first start, which takes minutes"
        )
    PartitionedOptimizerSwapper._swap_in_pinned_gradients = read_swapped_gradients


def read_swapped_gradients(swapper: Any, reader: Any, parameter: Tensor, gradients: Tensor) -> None:
    """Read the swapped gradients of a flat parameter, each into an aligned buffer, then copy them.

    Replaces DeepSpeed's method (0.19.8), which reads them directly into the flat gradient. Their
    addresses there are not aligned as direct I/O requires, and on some disks wrong values are read
    without an error.

    Args:
        gradients: float32[numel], written where gradients were swapped.
    """
    from deepspeed.runtime.swap_tensor.utils import swap_in_tensors

    for gradient in swapper.swap_params_info[
        swapper.parameter_id(parameter)
    ].swapped_gradients.values():
        aligned = reader.new_cpu_locked_tensor(
            gradient.length, torch.empty(0, dtype=gradients.dtype)
        )
        swap_in_tensors(reader, [aligned], [gradient.path])
        if reader.wait() != 1:
            raise OSError(f"{gradient.path}: a swapped gradient could not be read")
        gradients.narrow(0, gradient.offset, gradient.length).copy_(aligned)
        reader.free_cpu_locked_tensor(aligned)
