"""Vision towers: pixels to image features.

A tower maps pixels [N, 3, image_size, image_size] to features [N, positions, width]. A CLIP tower
gives its last layer's output with the class position, before the final norm, as in the published
system; a SigLIP tower has no class position and gives its normalised output. What either has behind
that is dropped, because a parameter that nothing reads would never get a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


class Tower(Protocol):
    """What the rest of the model needs to know of a tower."""

    image_size: int
    """Side of the square input, in pixels."""
    positions: int
    """Features per image."""
    width: int
    """Length of one feature vector."""
    has_class_position: bool
    """Whether the first feature stands for the whole image."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 or normalised float[N, 3, H, W] to float[N, positions, width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerKind:
    """What is true of all towers of one `model_type`."""

    has_class_position: bool
    """Whether the first feature stands for the whole image."""

    mean: tuple[float, float, float]
    """Per channel, of pixel values between 0 and 1, unless stated otherwise."""

    std: tuple[float, float, float]
    """Likewise."""


KINDS = {
    "clip_vision_model": TowerKind(
        has_class_position=True,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip_vision_model": TowerKind(
        has_class_position=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
}


def kind_of(config: PreTrainedConfig) -> TowerKind:
    """Return what is known of towers with such a configuration.

    Raises:
        ValueError: a tower of another make.
    """
    if config.model_type not in KINDS:
        raise ValueError(
            f"a tower must be one of {', '.join(KINDS)}; this one is {config.model_type!r}"
        )
    return KINDS[config.model_type]


def positions_of(config: PreTrainedConfig, *, image_size: int) -> int:
    """Return how many features the tower gives for a square image of this side."""
    grid: int = image_size // int(config.patch_size)
    return grid**2 + kind_of(config).has_class_position


def vision_half(model: PreTrainedModel) -> PreTrainedModel:
    """Return the vision half of a model with two, or the model itself, without what is not read."""
    half: PreTrainedModel = getattr(model, "vision_model", model)
    kind_of(half.config)
    if half.config.model_type == "clip_vision_model":
        half.post_layernorm = nn.Identity()
    elif half.use_head:
        half.config.vision_use_head = half.use_head = False
        del half.head
    return half


class HuggingFaceTower(nn.Module):
    """The vision half of a Hugging Face CLIP or SigLIP model.

    While all its parameters are frozen it runs without a gradient graph. It computes in the dtype
    of its own weights, whatever the decoder's is. For images of another size than it was trained
    on, its position embeddings are interpolated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """`mean` and `std` are per channel, of pixel values between 0 and 1."""
        super().__init__()
        model = vision_half(model)
        model.set_attn_implementation("sdpa")
        self.image_size = image_size
        self.positions = positions_of(model.config, image_size=image_size)
        self.width = int(model.config.hidden_size)
        self.has_class_position = kind_of(model.config).has_class_position
        self.mean, self.std = tuple(mean), tuple(std)
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map [N, 3, H, W], uint8 0..255 or already normalised floats, to [N, positions, width].

        Raises:
            ValueError: the images are not of the tower's size.
        """
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"pixels must be [N, 3, {self.image_size}, {self.image_size}], "
                f"got {list(pixels.shape)}"
            )
        if pixels.dtype == torch.uint8:
            pixels = normalised(pixels, mean=self.mean, std=self.std)
        resized = self.image_size != self.model.config.image_size
        trained = any(parameter.requires_grad for parameter in self.model.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            output = self.model(pixels.to(self.model.dtype), interpolate_pos_encoding=resized)
        features: Tensor = output.last_hidden_state
        return features


def normalised(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8[N, 3, H, W] as float32, scaled to 0..1, then minus `mean`, divided by `std`."""
    scale = torch.tensor(std, device=pixels.device).mul(255.0).reciprocal()
    shift = torch.tensor(mean, device=pixels.device) / torch.tensor(std, device=pixels.device)
    return pixels * scale[:, None, None] - shift[:, None, None]
