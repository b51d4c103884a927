"""`vchat-train plan`: what a run will do, before it starts: steps, tokens, padding, images, bytes.

Nothing is read but the shard set's index; the model is made without memory for its weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from vchat.model.visual_chat import VisualChat
from vchat.shards.manifest import ShardSet
from vchat.shards.plan_summary import PlanSummary, summarized
from vchat.train.config import RunConfig
from vchat.train.data import RunData, Share, open_sets
from vchat.train.parts import train_only
from vchat.train.starting_model import build_model, sizes_of


def print_forecast(config: RunConfig, *, num_processes: int) -> None:
    """Print the forecast of a run as a table on stdout."""
    table = Table("what", "value", title=f"{config.run.out}", title_justify="left")
    for name, value in forecast(config, num_processes=num_processes).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console(file=sys.stdout).print(table)


def forecast(config: RunConfig, *, num_processes: int) -> dict[str, Any]:
    """Count what the first epoch holds and what the whole run does.

    Raises:
        ValueError: whatever would stop the run when it plans its first epoch.
    """
    shard_sets, model, data = planned(config, num_processes=num_processes)
    sizes = sizes_of(model)
    rows_per_step = config.batch.rows_per_step
    summary = summarized(
        data.loader.plan(0),
        rows_per_step=rows_per_step,
        rows_per_micro_batch=config.batch.rows_per_micro_batch,
        world_size=num_processes,
    )
    return {
        "steps": data.total_steps,
        "steps per epoch": summary.steps,
        "epochs": round(data.total_steps / summary.steps, 2),
        "micro-batches per step and process": config.batch.micro_batches(num_processes),
        **_epoch_counts(summary),
        "bytes to read per epoch": _bytes_of(shard_sets, config.data.split),
        "image size, pixels": sizes.image_size,
        "positions per image": sizes.positions_per_image,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def planned(config: RunConfig, *, num_processes: int) -> tuple[list[ShardSet], VisualChat, RunData]:
    """Open the shards, make the model without its weights, and plan the data as rank 0 would."""
    shard_sets = open_sets(config)
    tokenizer = shard_sets[0].tokenizer()
    with torch.device("meta"):
        model = build_model(
            config.model,
            image_token_id=tokenizer.image_id,
            num_ids=tokenizer.num_ids,
            seed=config.run.seed,
        )
    train_only(model, config.train.parts)
    share = Share(rank=0, world_size=num_processes)
    return shard_sets, model, RunData(shard_sets, config, sizes=sizes_of(model), share=share)


def _epoch_counts(summary: PlanSummary) -> dict[str, Any]:
    return {
        "samples per epoch": summary.samples,
        "samples left out, too long": summary.excluded,
        "rows per epoch": summary.rows,
        "text tokens per epoch": summary.text_tokens,
        "supervised tokens per epoch": summary.supervised_tokens,
        "images per epoch": summary.images,
        "padding share": round(summary.padding_share, 4),
    }


def _bytes_of(shard_sets: Sequence[ShardSet], split: str) -> int:
    shards = [shard for shard_set in shard_sets for shard in shard_set.manifest["shards"]]
    return sum(shard["bytes"] for shard in shards if shard["split"] == split)
