"""Weights saved by the published DeepSpeed-VisualChat code as those of our model.

Every key is accounted for.

Its `pytorch_model.bin` is the state of one module: `vis_encoder`, `lang_decoder`, `lang_embed`,
`projection`. Where it trained with LoRA, keys `...lora_left_weight` and `...lora_right_weight`
stand beside a `...weight` that already contains them, because it fuses before it saves; a state
that was consolidated from a DeepSpeed checkpoint has them apart. Under ZeRO-3 it saves parameters
only, without LoRA's and without buffers.

r rank, I width in, O width out of a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vchat.model.visual_chat import VisualChat


PARTS = {
    "vis_encoder.vision_model.": "tower.model.",
    "vis_encoder.": "tower.model.",
    "lang_decoder.": "decoder.",
    "lang_embed.": "prompt_embeddings.",
    "projection.": "projection.",
}
"""How the keys of a part begin there, and here."""

NOT_READ = re.compile(
    r"vis_encoder\.vision_model\.(embeddings\.position_ids$|post_layernorm\.)"
    r"|lang_decoder\.model\.layers\.\d+\.self_attn\.rotary_emb\."
)
"""Constants that every library version recomputes, and a norm whose output nothing reads."""

LEFT, RIGHT = ".lora_left_weight", ".lora_right_weight"

Lora = Literal["auto", "fused", "apart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSummary:
    """What became of the keys of a file."""

    num_loaded: int
    """Weights that are now the model's."""

    num_not_read: int
    """Constants, and weights whose output nothing reads."""

    num_lora: int
    """Linear layers with LoRA beside them."""

    lora: str
    """`none`, or whether it was `fused` or `apart`."""


def find_projection(keys: Mapping[str, Tensor]) -> str:
    """Return the name of the projection that was trained.

    Raises:
        ValueError: these are not the published code's keys.
    """
    for key, name in (
        ("projection.0.weight", "baseline"),
        ("projection.projection.0.weight", "vit"),
        ("projection.kv_proj.weight", "perceiver"),
    ):
        if key in keys and (name != "vit" or "projection.vis_layer.mlp.fc1.weight" in keys):
            return name
    raise ValueError(
        "no projection of the published code among the keys: want projection.0.weight,"
        " projection.vis_layer.* or projection.kv_proj.weight"
    )


def load_published(model: VisualChat, weights: Mapping[str, Tensor], *, lora: Lora) -> LoadSummary:
    """Give `model` the weights of a published file; it must hold those of the parts it began as.

    Args:
        lora: whether LoRA is in the weights beside it. `auto` compares them with the model's own,
            which are those that LoRA was added to.

    Raises:
        ValueError: a key is unknown or missing, or has another shape; names it.
    """
    plain = {key: w for key, w in weights.items() if not key.endswith((LEFT, RIGHT))}
    stems = sorted(key.removesuffix(LEFT) for key in weights if key.endswith(LEFT))
    _require_pairs(weights, stems)
    named = {key: _our_name(key) for key in plain if not NOT_READ.match(key)}
    target = model.state_dict()
    _require_same(named, plain, target)
    added = {f"{stem}.weight": _lora_change(weights, stem) for stem in stems}
    if stems and lora == "auto":
        lora = _detect_lora(plain, added, {key: target[named[key]] for key in added})
    for key, name in named.items():
        weight = plain[key]
        if lora == "apart" and key in added:
            weight = (weight.float() + added[key]).to(weight.dtype)
        target[name].copy_(weight)
    return LoadSummary(
        num_loaded=len(named),
        num_not_read=len(plain) - len(named),
        num_lora=len(stems),
        lora=lora if stems else "none",
    )


def _our_name(key: str) -> str:
    """Return our name of a key; an unknown one stays."""
    for theirs, ours in PARTS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _require_pairs(weights: Mapping[str, Tensor], stems: list[str]) -> None:
    """Raise ValueError unless both factors of every LoRA, and the weight beside them, are there."""
    for key in weights:
        if key.endswith(RIGHT) and key.removesuffix(RIGHT) not in stems:
            raise ValueError(f"{key} is there, but not its {LEFT[1:]}")
    for stem in stems:
        for other in (RIGHT, ".weight"):
            if stem + other not in weights:
                raise ValueError(f"{stem}{LEFT} is there, but not its {other[1:]}")


def _require_same(
    named: Mapping[str, str], weights: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> None:
    """Raise ValueError, naming the first keys, unless names and shapes are those of the model."""
    unknown = [key for key, name in named.items() if name not in target]
    missing = sorted(target.keys() - set(named.values()))
    for what, keys in (("unknown", unknown), ("missing", missing)):
        if keys:
            shown = ", ".join(keys[:3]) + (" ..." if len(keys) > 3 else "")
            raise ValueError(f"{len(keys)} keys are {what}: {shown}")
    for key, name in named.items():
        if weights[key].shape != target[name].shape:
            found, wanted = list(weights[key].shape), list(target[name].shape)
            raise ValueError(f"{key} has shape {found}, this model wants {wanted}")


def _lora_change(weights: Mapping[str, Tensor], stem: str) -> Tensor:
    """Return what LoRA adds to a weight, float32[O, I]; the published scale is 1 / rank."""
    left, right = weights[stem + LEFT].float(), weights[stem + RIGHT].float()  # [r, O], [I, r]
    return (right @ left).T / left.shape[0]


def _detect_lora(
    saved: Mapping[str, Tensor], added: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> Lora:
    """Tell whether LoRA is in the saved weights, by those that it was added to.

    Raises:
        ValueError: they are neither the weights before LoRA nor those with it.
    """
    distances = torch.zeros(3, dtype=torch.float64)
    for key, change in added.items():
        without = saved[key].float() - before[key].float()
        ways = (without, without - change, change)
        distances += torch.stack([difference.double().square().sum() for difference in ways])
    apart, fused, moved = distances.sqrt().tolist()
    if moved > 0 and min(apart, fused) > 0.5 * moved:
        raise ValueError(
            "the weights beside LoRA are neither those of the given parts nor those with LoRA"
            f" added (distance {apart:.3g} and {fused:.3g}, LoRA adds {moved:.3g}): give the parts"
            " the training began with, or say which by --lora"
        )
    return "apart" if apart < fused else "fused"
