"""What a vision tower costs: run once at its true size, on tensors that have no memory.

For towers of any make, whose layers have no common names: those of open_clip and of Qwen-VL. Every
operation is recorded as if it ran on a CPU, in milliseconds and without a byte.
"""

from __future__ import annotations

import copy

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from vchat.model.config import VisualChatConfig
from vchat.model.towers.hugging_face import HuggingFaceTower
from vchat.train.costs.live_bytes import LiveBytes, MemoryUse, drop_gradients


def tower_flops(config: VisualChatConfig) -> float:
    """Count the operations of one image through the tower of a model, adapters apart."""
    with torch.device("meta"):
        tower = HuggingFaceTower(
            AutoModel.from_config(config.tower_config),
            image_size=config.image_size,
            mean=config.image_mean,
            std=config.image_std,
        )
    counted = FlopCounterMode(display=False)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tower.to_empty(device="cpu")
        with sdpa_kernel(SDPBackend.MATH), counted:  # the fused kernel is not counted
            tower(pixels_of(tower, images=1))
    return float(counted.get_total_flops())


def tower_bytes(tower: HuggingFaceTower, *, dtype: torch.dtype, images: int) -> MemoryUse:
    """Measure a tower on so many images: pixels, features and its own gradients apart.

    Args:
        tower: on the meta device, its trained parameters marked; it is not changed.
    """
    twin = copy.deepcopy(tower).to(dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        twin.to_empty(device="cpu").train()
        drop_gradients(twin)
        live, pixels = LiveBytes(), pixels_of(twin, images=images)
        live.ignore([*twin.parameters(), *twin.buffers()])
        with live:
            features = twin(pixels)
            kept = live.now - features.nbytes
            if features.requires_grad:
                features.sum().backward()
    return MemoryUse(kept=kept, peak=live.peak)


def pixels_of(tower: HuggingFaceTower, *, images: int) -> torch.Tensor:
    """Black images of the tower's size."""
    return torch.zeros(images, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
