"""`vchat-train plan`: what a run will do, before it starts: steps, tokens, padding, images, bytes.

Nothing is read but the shard set's index; the model is made without memory for its weights.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from vchat.shards.epoch import EpochPlan
from vchat.shards.manifest import ShardSet, open_shards
from vchat.train.config import RunConfig
from vchat.train.data import RunData, Share
from vchat.train.parts import train_only
from vchat.train.starting_model import build_model, sizes_of


def print_forecast(config: RunConfig) -> None:
    """Print the forecast of a run as a table on stdout."""
    table = Table("what", "value", title=f"{config.run.out}", title_justify="left")
    for name, value in forecast(config).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console(file=sys.stdout).print(table)


def forecast(config: RunConfig) -> dict[str, Any]:
    """Count what the first epoch holds and what the whole run does.

    Raises:
        ValueError: whatever would stop the run when it plans its first epoch.
    """
    shard_set = open_shards(config.data.shards)
    tokenizer = shard_set.tokenizer()
    with torch.device("meta"):
        model = build_model(
            config.model,
            image_token_id=tokenizer.image_id,
            num_ids=tokenizer.num_ids,
            seed=config.run.seed,
        )
    train_only(model, config.train.parts)
    sizes = sizes_of(model)
    data = RunData(shard_set, config, sizes=sizes, share=Share(rank=0, world_size=1))
    plan = data.loader.plan(0)
    rows_per_step = config.batch.rows_per_step
    return {
        "steps": data.total_steps,
        "steps per epoch": plan.num_steps(rows_per_step),
        "epochs": round(data.total_steps / plan.num_steps(rows_per_step), 2),
        **_epoch_counts(plan, config),
        "bytes to read per epoch": _bytes_of(shard_set, config.data.split),
        "image size, pixels": sizes.image_size,
        "positions per image": sizes.positions_per_image,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _epoch_counts(plan: EpochPlan, config: RunConfig) -> dict[str, Any]:
    positions = int(plan.positions_per_row.sum())
    room = plan.num_rows * config.data.tokens_per_row
    return {
        "samples per epoch": len(plan.samples),
        "samples left out, too long": len(plan.excluded),
        "rows per epoch": plan.num_rows,
        "positions per epoch": positions,
        "supervised tokens per epoch": int(plan.supervised_per_row.sum()),
        "images per epoch": int(plan.images_per_row.sum()),
        "padding share of rows": round(1 - positions / max(1, room), 4),
    }


def _bytes_of(shard_set: ShardSet, split: str) -> int:
    shards = shard_set.manifest["shards"]
    return sum(shard["bytes"] for shard in shards if shard["split"] == split)
