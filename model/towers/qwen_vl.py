"""The vision tower of Qwen-VL: OpenCLIP's ViT-bigG at 448 pixels and a resampler to 256 features.

In: float[N, 3, H, W]. Out: float[N, 256, 4096]. Written from the public code that comes with the
weights; the submodules are named as there, so that a checkpoint's keys load unchanged. Not checked
against real weights.

Two things differ from a CLIP tower: there is no class position, and the table of positions is that
of 16 x 16 patches, interpolated to the 32 x 32 of an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from vchat.model.towers.projection import grid_embeddings, resize_grid

EPSILON = 1e-6
"""Of all norms in the tower."""


class QwenVLVisualConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of the tower; the defaults are those of Qwen-VL and Qwen-VL-Chat."""

    model_type = "qwen_vl_visual"

    image_size: int = 448
    """Side of the square input, in pixels."""

    patch_size: int = 14
    """Side of a patch, in pixels."""

    num_table_positions: int = 256
    """Rows of the table of positions, a square; interpolated to the patches of an image."""

    patch_width: int = 1664
    """Width of the vectors inside the transformer."""

    num_hidden_layers: int = 48
    """Layers of the transformer."""

    num_attention_heads: int = 16
    """Of the transformer, and of the extra layer of a `vit` projection."""

    intermediate_size: int = 8192
    """Width inside an MLP, of both."""

    num_queries: int = 256
    """Features per image, a square."""

    hidden_size: int = 4096
    """Width of a feature."""

    resampler_head_width: int = 128
    """Of the resampler's attention."""

    hidden_act: str = "gelu"
    """Of the extra layer of a `vit` projection, which published chat models take from CLIP."""

    layer_norm_eps: float = 1e-5
    """As `hidden_act`."""


class QwenVLVisual(PreTrainedModel):  # type: ignore[misc]
    """Pixels to 256 features of the language model's width."""

    config_class = QwenVLVisualConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: QwenVLVisualConfig) -> None:
        """Build it with fresh weights."""
        super().__init__(config)
        width, side = config.patch_width, config.patch_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=side, stride=side, bias=False)
        self.positional_embedding = nn.Parameter(
            torch.randn(config.num_table_positions, width) * width**-0.5
        )
        self.ln_pre = nn.LayerNorm(width, eps=EPSILON)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(build_blocks(config))})
        self.attn_pool = Resampler(config)
        self.ln_post = nn.LayerNorm(config.hidden_size, eps=EPSILON)
        self.proj = nn.Parameter(
            torch.randn(config.hidden_size, config.hidden_size) * config.hidden_size**-0.5
        )
        self.post_init()

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Map normalised float[N, 3, H, W] to `last_hidden_state`, float[N, queries, width]."""
        hidden = self.conv1(pixel_values).flatten(2).mT
        hidden = hidden + resize_grid(self.positional_embedding, num_positions=hidden.shape[1])
        hidden = self.ln_pre(hidden)
        for block in self.transformer["resblocks"].children():
            hidden = block(hidden)
        features = self.ln_post(self.attn_pool(hidden)) @ self.proj
        return BaseModelOutput(last_hidden_state=features)


def build_blocks(config: QwenVLVisualConfig) -> list[Block]:
    """Return the layers of the transformer."""
    sizes = (config.patch_width, config.num_attention_heads, config.intermediate_size)
    return [Block(*sizes) for _ in range(config.num_hidden_layers)]


class Block(GradientCheckpointingLayer):  # type: ignore[misc]
    """One layer: attention and MLP, each behind a norm and added to its input."""

    def __init__(self, width: int, num_heads: int, intermediate_size: int) -> None:
        """`width` is a multiple of `num_heads`."""
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, intermediate_size))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(intermediate_size, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[N, P, width] to the same shape."""
        hidden = hidden + self.attn(self.ln_1(hidden))
        added: Tensor = hidden + self.mlp(self.ln_2(hidden))
        return added


class Attention(nn.Module):
    """Self-attention whose one input map gives query, key and value head by head.

    The rows of `in_proj` are those of head 0 (query, key, value), then of head 1, and so on.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        """`width` is a multiple of `num_heads`."""
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[N, P, width] to the same shape."""
        by_head = self.in_proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        query, key, value = by_head.chunk(3, dim=-1)  # each [N, heads, P, head width]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mapped: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return mapped


class Resampler(nn.Module):
    """Learned queries on a square grid gather the patches of an image."""

    pos_embed: Tensor

    def __init__(self, config: QwenVLVisualConfig) -> None:
        """Start with random queries; the grid's positions are constant, but saved like weights."""
        super().__init__()
        width = config.hidden_size
        side = math.isqrt(config.num_queries)
        self.register_buffer("pos_embed", grid_embeddings(width, side=side))
        self.query = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)
        self.kv_proj = nn.Linear(config.patch_width, width, bias=False)
        self.attn = nn.MultiheadAttention(
            width, width // config.resampler_head_width, batch_first=True
        )
        self.ln_q = nn.LayerNorm(width, eps=EPSILON)
        self.ln_kv = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map float[N, P, patch width] to float[N, queries, width]; P must be a square."""
        values = self.ln_kv(self.kv_proj(hidden))
        grid = self.pos_embed.to(values.dtype)  # a buffer stays float32 in a bf16 run
        keys = values + resize_grid(grid, num_positions=values.shape[1])
        queries = (self.ln_q(self.query) + grid).expand(len(hidden), -1, -1)
        gathered: Tensor
        gathered, _ = self.attn(queries, keys, values, need_weights=False)
        return gathered
