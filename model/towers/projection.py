"""From the tower's features to vectors of the decoder's width.

In: float[N, positions, tower width]. Out: float[N, positions, decoder width]; the perceiver always
gives 256 positions. Submodules are named as in the published checkpoints, so their keys load
unchanged.

The published norms have an epsilon of 1e-12, and so have ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, PreTrainedConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

EPSILON = 1e-12
GRID = 16
"""The perceiver's queries form a square of this side."""

HEAD_WIDTH = 128
"""Of the perceiver's attention."""


def build_projection(
    name: str, *, tower_config: PreTrainedConfig, has_class_position: bool, decoder_width: int
) -> nn.Module:
    """Return a fresh projection for features as wide as `tower_config.hidden_size`.

    Args:
        name: `baseline`, `vit` or `perceiver`.
        tower_config: its layer sizes are those of the `vit` projection's extra layer.
        has_class_position: whether the first feature stands for the whole image.

    Raises:
        ValueError: a perceiver for a decoder whose width is not a multiple of 128.
    """
    tower_width = int(tower_config.hidden_size)
    if name == "baseline":
        return _linear_and_norm(tower_width, decoder_width)
    if name == "vit":
        return VitProjection(tower_config, decoder_width)
    return PerceiverProjection(tower_width, decoder_width, has_class_position=has_class_position)


def positions_after(name: str, *, tower_positions: int) -> int:
    """Return how many positions one image takes behind the projection."""
    return GRID**2 if name == "perceiver" else tower_positions


def _linear_and_norm(tower_width: int, decoder_width: int) -> nn.Sequential:
    """Map linearly, then normalise, so that image vectors have the scale of the norm's weight."""
    return nn.Sequential(
        nn.Linear(tower_width, decoder_width), nn.LayerNorm(decoder_width, eps=EPSILON)
    )


class VitProjection(nn.Module):
    """One more layer of the tower's kind, then linear and norm."""

    def __init__(self, tower_config: PreTrainedConfig, decoder_width: int) -> None:
        """Take the layer's sizes from the tower; its weights are fresh."""
        super().__init__()
        sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "hidden_act")
        layer_config = CLIPVisionConfig(
            **{name: getattr(tower_config, name) for name in (*sizes, "layer_norm_eps")},
            attn_implementation="sdpa",
        )
        self.vis_layer = CLIPEncoderLayer(layer_config)
        self.projection = _linear_and_norm(int(tower_config.hidden_size), decoder_width)

    def forward(self, features: Tensor) -> Tensor:
        """Map float[N, P, tower width] to float[N, P, decoder width]."""
        projected: Tensor = self.projection(self.vis_layer(features, attention_mask=None))
        return projected


class PerceiverProjection(nn.Module):
    """256 learned queries on a 16 x 16 grid gather an image, whatever its number of features."""

    pos_embed: Tensor

    def __init__(
        self, tower_width: int, decoder_width: int, *, has_class_position: bool = True
    ) -> None:
        """Start with random queries; the grid's positions are constant, but saved like weights."""
        super().__init__()
        if decoder_width % HEAD_WIDTH != 0:
            raise ValueError(
                f"the perceiver has heads of {HEAD_WIDTH}, so the decoder's width must be a "
                f"multiple of that; it is {decoder_width}"
            )
        self.has_class_position = has_class_position
        self.register_buffer("pos_embed", grid_embeddings(decoder_width, side=GRID))
        self.query = nn.Parameter(torch.randn(GRID**2, decoder_width) * 0.02)
        self.kv_proj = nn.Linear(tower_width, decoder_width)
        self.attn = nn.MultiheadAttention(
            decoder_width, decoder_width // HEAD_WIDTH, batch_first=True
        )
        self.ln_q = nn.LayerNorm(decoder_width, eps=EPSILON)
        self.ln_kv = nn.LayerNorm(decoder_width, eps=EPSILON)
        self.projection = nn.Sequential(
            nn.LayerNorm(decoder_width, eps=EPSILON), nn.Linear(decoder_width, decoder_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map float[N, P, tower width] to float[N, 256, decoder width].

        The class position is left out. The others must form a square.
        """
        if self.has_class_position:
            features = features[:, 1:]
        values = self.ln_kv(self.kv_proj(features))
        grid = self.pos_embed.to(values.dtype)  # a buffer stays float32 in a bf16 run
        keys = values + resize_grid(grid, num_positions=values.shape[1])
        queries = (self.ln_q(self.query) + grid).expand(len(features), -1, -1)
        gathered, _ = self.attn(queries, keys, values, need_weights=False)
        projected: Tensor = self.projection(gathered)
        return projected


def grid_embeddings(width: int, *, side: int) -> Tensor:
    """Return float32[side * side, width], row by row: half says the column, half the row.

    A half is the sines and then the cosines of the coordinate at falling frequencies.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(side, dtype=torch.float32)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1)


def resize_grid(embeddings: Tensor, *, num_positions: int) -> Tensor:
    """Return the square grid float[n, width] interpolated to float[num_positions, width].

    Raises:
        ValueError: `num_positions` is not a square.
    """
    old, new = math.isqrt(len(embeddings)), math.isqrt(num_positions)
    if new**2 != num_positions:
        raise ValueError(f"the perceiver needs a square of image features, got {num_positions}")
    if old == new:
        return embeddings
    as_image = embeddings.float().T.reshape(1, -1, old, old)
    resized = functional.interpolate(as_image, size=(new, new), mode="bicubic")
    return resized.flatten(2)[0].T.to(embeddings.dtype)
