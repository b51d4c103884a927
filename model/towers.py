"""Vision towers: pixels to image features.

A tower is a module with `image_size`, `mean`, `std`, `positions` and `width` that maps pixels
[N, 3, image_size, image_size] to features [N, positions, width]. The features are those of the last
layer, class position included, before any final norm, as in the published system.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Tower(Protocol):
    """What the rest of the model needs to know of a tower."""

    image_size: int
    """Side of the square input, in pixels."""
    positions: int
    """Features per image."""
    width: int
    """Length of one feature vector."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Map uint8 or normalised float[N, 3, H, W] to float[N, positions, width]."""


class ClipTower(nn.Module):
    """The vision half of a Hugging Face CLIP model.

    While all its parameters are frozen it runs without a gradient graph. It computes in the dtype
    of its own weights, whatever the decoder's is. The norm behind the last layer is dropped:
    nothing reads it, so training it would leave a parameter without a gradient.
    """

    def __init__(
        self, model: PreTrainedModel, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """`mean` and `std` are per channel, of pixel values between 0 and 1."""
        super().__init__()
        self.image_size = int(model.config.image_size)
        self.positions = 1 + (self.image_size // int(model.config.patch_size)) ** 2
        self.width = int(model.config.hidden_size)
        self.mean, self.std = tuple(mean), tuple(std)
        model.post_layernorm = nn.Identity()
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
        trained = any(parameter.requires_grad for parameter in self.model.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            features: Tensor = self.model(pixels.to(self.model.dtype)).last_hidden_state
        return features


def normalised(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8[N, 3, H, W] as float32, scaled to 0..1, then minus `mean`, divided by `std`."""
    scale = torch.tensor(std, device=pixels.device).mul(255.0).reciprocal()
    shift = torch.tensor(mean, device=pixels.device) / torch.tensor(std, device=pixels.device)
    return pixels * scale[:, None, None] - shift[:, None, None]
