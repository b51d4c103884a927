"""Models and settings whose memory and operations tests forecast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vchat.model.visual_chat import VisualChat
from vchat.train.config.run import RunConfig, read_run
from vchat.train.engine.engine import DTYPES
from vchat.train.engine.parts import freeze_other_parts
from vchat.train.engine.starting_model import build_model
from vchat.train.forecast.twin import MicroBatch, TwinSettings
from vchat_testing.training_runs import RUN_TOML

NUM_IDS = 300
BATCH = MicroBatch(rows=2, positions=512, images=8, supervised=16)

QWEN_TOWER = {
    "model_type": "qwen_vl_visual",
    "image_size": 32,
    "patch_size": 8,
    "patch_width": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "num_table_positions": 4,
    "num_queries": 4,
    "hidden_size": 64,
    "resampler_head_width": 16,
}


def wide_run(folder: Path) -> RunConfig:
    """Return a run whose model is wide enough to have a narrow twin."""
    path = folder / "RUN.toml"
    path.write_text(RUN_TOML.format(shards="none", out="out"))
    wider = ("hidden_size=128", "intermediate_size=192", "num_hidden_layers=5")
    settings = [f"model.decoder.{setting}" for setting in (*wider, "num_attention_heads=4")]
    return read_run(path, overrides=settings)


def run_model(config: RunConfig, *, device: str) -> VisualChat:
    """Build the model of a run, its other parts frozen."""
    with torch.device(device):
        model = build_model(config.model, image_token_id=7, num_ids=NUM_IDS, seed=0)
    freeze_other_parts(model, config.train.parts)
    return model


def with_training(
    config: RunConfig, precision: str, *parts: str, checkpointing: bool = False
) -> RunConfig:
    """Return a run with another precision, other trained parts, and with checkpointing or not."""
    train: Any = {"precision": precision, "gradient_checkpointing": checkpointing}
    train |= {"parts": parts or config.train.parts}
    return replace(config, train=replace(config.train, **train))


def with_tower(config: RunConfig, tower: dict[str, Any] | None) -> RunConfig:
    """Return a run with another tower, or itself."""
    return replace(config, model=replace(config.model, tower=tower or config.model.tower))


def twin_settings(config: RunConfig) -> TwinSettings:
    """Return what of a run decides the memory of its activations."""
    return TwinSettings(
        dtype=DTYPES[config.train.precision],
        parts=tuple(config.train.parts),
        gradient_checkpointing=config.train.gradient_checkpointing,
    )
