"""The decoder's last layer, without the image positions that nothing reads.

In training only positions that predict a supervised token are read behind the last layer, and most
of these are text. Image positions matter there through their keys and values alone, so the last
layer computes those for them and spends nothing on their MLP. No layer's code is replaced: a hook
in front of the last layer first runs its attention on the image positions, to collect keys and
values, and then hands the layer the remaining positions.

Every rank calls the same modules equally often, images or not, which ZeRO-3 needs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vchat.model.attention import repeat_heads
from vchat.model.flat_layout import FlatLayout


def can_skip_images(decoder: nn.Module) -> bool:
    """Tell whether the last layer is of a kind that this file understands.

    It takes rotary embeddings as an argument, and feeds its attention either `input_layernorm` of
    its input (Llama and most others) or the input itself (OLMo 2).
    """
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return False
    layer = layers[-1]
    attention = getattr(layer, "self_attn", None)
    if attention is None:
        return False
    takes_rotary = "position_embeddings" in inspect.signature(attention.forward).parameters
    norms_first = hasattr(layer, "input_layernorm")
    norms_after = hasattr(layer, "post_attention_layernorm") and hasattr(
        layer, "post_feedforward_layernorm"
    )
    return takes_rotary and (norms_first or norms_after)


def skip_images_in_last_layer(decoder: nn.Module) -> None:
    """Make the last layer skip image positions whenever its layout names those to keep."""
    layers: Any = decoder.layers
    layers[-1].register_forward_pre_hook(_keep_positions, with_kwargs=True)


def _keep_positions(
    layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
    """Swap the layer's input, float[1, N, D], for what is kept; image keys go into the layout."""
    layout = kwargs.get("layout")
    if not isinstance(layout, FlatLayout) or layout.kept_images is None:
        return None
    hidden, kwargs = (args[0], kwargs) if args else (kwargs.pop("hidden_states"), kwargs)
    num = layout.num_image
    some = slice(max(num, 1))  # never none: the library's attention cannot shape zero positions
    keys, values = _image_keys(layer, hidden[:, some], _select_positions(kwargs, some))
    kept = torch.cat([layout.kept_images, torch.arange(num, hidden.shape[1], device=hidden.device)])
    kwargs = _select_positions(kwargs, kept)
    kwargs["layout"] = replace(layout, image_keys=keys[:, :, :num], image_values=values[:, :, :num])
    return (hidden.index_select(1, kept),), kwargs


@dataclass(frozen=True, slots=True)
class CollectingLayout:
    """Asks the attention for the keys and values of its positions instead of an output."""

    keys_and_values: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Filled by the attention: float[B, G, S, d] each."""

    longest: int = 0
    """Nothing attends."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
        """Keep keys and values; return each position's own value."""
        self.keys_and_values.append((key, value))
        return repeat_heads(value, num_heads=query.shape[1]).transpose(1, 2)


def _image_keys(layer: Any, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return keys and values of the image positions, each float[1, G, n, d]; keys are rotated."""
    collecting = CollectingLayout()
    norm = getattr(layer, "input_layernorm", None)
    layer.self_attn(
        hidden_states=hidden if norm is None else norm(hidden), **{**kwargs, "layout": collecting}
    )
    return collecting.keys_and_values[0]


def _select_positions(kwargs: dict[str, Any], chosen: Tensor | slice) -> dict[str, Any]:
    """Return a layer's keyword arguments for the chosen positions."""
    cos, sin = kwargs["position_embeddings"]
    return {
        **kwargs,
        "position_embeddings": (cos[:, chosen], sin[:, chosen]),
        "position_ids": kwargs["position_ids"][:, chosen],
    }
