"""The vision tower of a Qwen-VL checkpoint folder; every key is accounted for.

Keys of the tower begin with `transformer.visual.`; a folder that holds the tower alone, as the
published chat code wants it, has them bare. All other keys must be of the language model.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vchat.model.towers.hugging_face import CLIP_MEAN, CLIP_STD
from vchat.model.towers.qwen_vl import QwenVLVisual, QwenVLVisualConfig
from vchat.model.towers.weight_files import compare_weights, read_weights

PREFIX = "transformer.visual."
OF_LANGUAGE_MODEL = re.compile(r"transformer\.(wte|h|ln_f|rotary_emb)\.|lm_head\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTower:
    """A tower, and what became of the checkpoint's keys."""

    tower: QwenVLVisual
    num_loaded: int
    num_of_language_model: int
    """Keys of the language model, which are not read."""


def read_qwen_vl_tower(folder: Path, *, resampler_head_width: int = 128) -> ImportedTower:
    """Return the tower of a Qwen-VL folder; its sizes are read off the weights.

    Raises:
        ValueError: a key is neither the tower's nor the language model's, one of the tower's is
            missing, or one has another shape.
    """
    weights: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    num_of_language_model = 0
    for name, tensor in read_weights(folder):
        if name.startswith(PREFIX):
            weights[name.removeprefix(PREFIX)] = tensor
        elif OF_LANGUAGE_MODEL.match(name):
            num_of_language_model += 1
        else:
            others[name] = tensor
    if not weights:
        weights, others = others, {}
    if others:
        first = next(iter(others))
        raise ValueError(f"{folder}: {len(others)} keys are unknown in Qwen-VL, such as {first!r}")
    with torch.device("meta"):
        tower = QwenVLVisual(
            read_config(folder, weights, resampler_head_width=resampler_head_width)
        )
    problems = compare_weights(weights, tower.state_dict())
    if problems:
        raise ValueError(f"{folder}: not the tower of Qwen-VL: {problems}")
    tower.load_state_dict(weights, assign=True)
    return ImportedTower(
        tower=tower, num_loaded=len(weights), num_of_language_model=num_of_language_model
    )


def read_config(
    folder: Path, weights: dict[str, Tensor], *, resampler_head_width: int
) -> QwenVLVisualConfig:
    """Return the sizes of a tower: heads and image size as the folder states, else as published."""
    wanted = ("conv1.weight", "positional_embedding", "attn_pool.query", "proj")
    missing = [name for name in (*wanted, _first("mlp.c_fc.weight")) if name not in weights]
    if missing:
        raise ValueError(f"{folder}: no vision tower of Qwen-VL there ({missing[0]} is missing)")
    stated = _read_visual_table(folder)
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer.resblocks.")}
    width, _, side, _ = weights["conv1.weight"].shape
    queries, hidden = weights["attn_pool.query"].shape
    return QwenVLVisualConfig(
        image_size=int(stated.get("image_size", 448)),
        patch_size=side,
        num_table_positions=len(weights["positional_embedding"]),
        patch_width=width,
        num_hidden_layers=len(layers),
        num_attention_heads=int(stated.get("heads", 16)),
        intermediate_size=len(weights[_first("mlp.c_fc.weight")]),
        num_queries=queries,
        hidden_size=hidden,
        resampler_head_width=resampler_head_width,
        dtype=weights["conv1.weight"].dtype,
    )


def save_tower(tower: QwenVLVisual, out: Path) -> None:
    """Write a folder that `[model] tower` of RUN.toml can name."""
    tower.save_pretrained(out)
    facts = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "size": tower.config.image_size}
    (out / "preprocessor_config.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _first(name: str) -> str:
    return f"transformer.resblocks.0.{name}"


def _read_visual_table(folder: Path) -> dict[str, Any]:
    """The table `visual` of Qwen-VL's `config.json`, empty if there is none."""
    file = folder / "config.json"
    if not file.is_file():
        return {}
    visual: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")).get("visual", {})
    return visual
