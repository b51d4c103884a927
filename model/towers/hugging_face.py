"""Vision towers: pixels to image features.

A tower maps pixels [N, 3, image_size, image_size] to features [N, positions, width]. A CLIP tower
gives its last layer's output with the class position, before the final norm, as in the published
system; a SigLIP or SigLIP 2 tower has no class position and gives its normalised output. What
either has behind that is dropped, because a parameter that nothing reads would never get a
gradient. Towers of open_clip and of Qwen-VL are transformers models of our own, in files of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from vchat.model.towers.open_clip import OpenClipVision, OpenClipVisionConfig
from vchat.model.towers.qwen_vl import QwenVLVisual, QwenVLVisualConfig


class Tower(Protocol):
    """What the rest of the model needs to know of a tower."""

    image_size: int
    """Side of the square input, in pixels."""
    num_features: int
    """Features per image."""
    width: int
    """Length of one feature vector."""
    has_class_position: bool
    """Whether the first feature stands for the whole image."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 or normalised float[N, 3, H, W] to float[N, positions, width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerTraits:
    """What a configuration says about a tower."""

    image_size: int
    """Side in pixels of the square it was made for."""

    has_class_position: bool
    """Whether the first feature stands for the whole image."""

    mean: tuple[float, ...]
    """Per channel, of pixel values between 0 and 1, unless stated otherwise."""

    std: tuple[float, ...]
    """As `mean`."""


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HUGGING_FACE_TOWERS = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model")
OUR_TOWERS = ("open_clip", "qwen_vl_visual")


def register_towers() -> None:
    """Make transformers' `Auto` classes know the towers that are ours."""
    for config, tower in (
        (OpenClipVisionConfig, OpenClipVision),
        (QwenVLVisualConfig, QwenVLVisual),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, tower, exist_ok=True)


def read_traits(config: PreTrainedConfig) -> TowerTraits:
    """Return what a configuration says about its tower.

    Raises:
        ValueError: a tower of another kind.
    """
    if config.model_type not in HUGGING_FACE_TOWERS + OUR_TOWERS:
        raise ValueError(
            f"a tower must be one of {', '.join(HUGGING_FACE_TOWERS + OUR_TOWERS)}; this one is "
            f"{config.model_type!r}"
        )
    is_siglip = config.model_type.startswith("siglip")
    grey = (0.5, 0.5, 0.5)
    if config.model_type == "siglip2_vision_model":  # for any size, so it states none
        image_size = math.isqrt(config.num_patches) * int(config.patch_size)
    else:
        image_size = int(config.image_size)
    return TowerTraits(
        image_size=image_size,
        has_class_position=getattr(
            config, "has_class_position", config.model_type == "clip_vision_model"
        ),
        mean=tuple(getattr(config, "image_mean", grey if is_siglip else CLIP_MEAN)),
        std=tuple(getattr(config, "image_std", grey if is_siglip else CLIP_STD)),
    )


def count_features(config: PreTrainedConfig, *, image_size: int) -> int:
    """Return how many features the tower gives for a square image of this side."""
    if config.model_type == "open_clip":
        return int(config.num_positions)  # its `image_size` is always the one it reads
    if config.model_type == "qwen_vl_visual":
        return int(config.num_queries)
    grid: int = image_size // int(config.patch_size)
    return grid**2 + read_traits(config).has_class_position


def vision_half(model: PreTrainedModel) -> PreTrainedModel:
    """Return the vision half of a model with two, or the model itself, without what is not read."""
    half: PreTrainedModel = getattr(model, "vision_model", model)
    read_traits(half.config)
    if half.config.model_type == "clip_vision_model":
        half.post_layernorm = nn.Identity()
    elif half.config.model_type.startswith("siglip") and half.use_head:
        half.config.vision_use_head = half.use_head = False
        del half.head
    return half


class HuggingFaceTower(nn.Module):
    """The vision half of a transformers model: CLIP, SigLIP, SigLIP 2, or one of ours.

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
        if model.config.model_type in HUGGING_FACE_TOWERS:
            model.set_attn_implementation("sdpa")
        self.image_size = image_size
        self.num_features = count_features(model.config, image_size=image_size)
        self.width = int(model.config.hidden_size)
        self.has_class_position = read_traits(model.config).has_class_position
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
            pixels = normalise(pixels, mean=self.mean, std=self.std)
        trained = any(parameter.requires_grad for parameter in self.model.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            output = self.model(**self._inputs(pixels.to(self.model.dtype)))
        features: Tensor = output.last_hidden_state
        return features

    def _inputs(self, pixels: Tensor) -> dict[str, Any]:
        """Return what the model's `forward` takes, from normalised float[N, 3, H, W]."""
        config = self.model.config
        if config.model_type == "siglip2_vision_model":
            return to_patches(pixels, patch_size=int(config.patch_size))
        if config.model_type in OUR_TOWERS:
            return {"pixel_values": pixels}
        resized = self.image_size != int(config.image_size)
        return {"pixel_values": pixels, "interpolate_pos_encoding": resized}


def to_patches(pixels: Tensor, *, patch_size: int) -> dict[str, Tensor]:
    """Return square images as SigLIP 2 takes them: rows of patches, all shown, and their grid."""
    patches = pixels.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    grid = torch.tensor(patches.shape[2:4], device=pixels.device).expand(len(pixels), 2)
    rows = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # channels last in a patch
    shown = torch.ones(rows.shape[:2], dtype=torch.int64, device=pixels.device)
    return {"pixel_values": rows, "pixel_attention_mask": shown, "spatial_shapes": grid}


def normalise(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8[N, 3, H, W] as float32, scaled to 0..1, then minus `mean`, divided by `std`."""
    scale = torch.tensor(std, device=pixels.device).mul(255.0).reciprocal()
    shift = torch.tensor(mean, device=pixels.device) / torch.tensor(std, device=pixels.device)
    return pixels * scale[:, None, None] - shift[:, None, None]
