"""Operations and bytes of a vision tower, from one run at its true size on fake tensors.

For the towers of open_clip and Qwen-VL, whose layers do not have the names that Hugging Face's
share. Fake tensors have a shape and no memory, so the run takes milliseconds.
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
    """Count the forward operations of one image in the tower of a model, without adapters."""
    with torch.device("meta"):
        tower = HuggingFaceTower(
            AutoModel.from_config(config.tower_config, trust_remote_code=False),
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
    """Measure the activations of a tower, without pixels, features and the tower's gradients.

    Args:
        tower: On the meta device; `requires_grad` says what is trained. It is not changed.
        dtype: Of its weights and activations.
        images: How many go through it at once.
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
    """Return black images of the tower's size, uint8[images, 3, H, W]."""
    return torch.zeros(images, 3, tower.image_size, tower.image_size, dtype=torch.uint8)
