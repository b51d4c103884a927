"""`vchat-train plan`: what a run will do and need, before a GPU is rented.

Nothing is read but the shard sets' index; the model is made without memory for its weights. Out:
steps, tokens, images and bytes; memory per GPU, and what would make it fit; operations and hours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vchat.model.visual_chat import VisualChat
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.rank_work import SampleSpans, rank_work
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.plan.summary import PlanSummary, summarize_plan
from vchat.train.config.run import RunConfig
from vchat.train.costs.flops import flops_of, pairs_of_epoch
from vchat.train.costs.memory import weight_counts
from vchat.train.engine.parts import freeze_other_parts
from vchat.train.engine.starting_model import build_model, read_sizes
from vchat.train.forecast.gpu_memory import GpuMemory, memory_facts
from vchat.train.run.data import RankShare, RunData, open_run_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a run would run on."""

    gpus: int
    gpus_per_node: int
    memory_gb: float | None
    """Of one GPU; None if it is not known: then nothing is said to fit or not."""

    tflops: float | None
    """What one GPU does at best, 10^12 operations per second; None: no hours."""

    mfu: float
    """Share of that which the run is expected to reach."""

    @property
    def nodes(self) -> int:
        """How many machines the GPUs are in."""
        return math.ceil(self.gpus / self.gpus_per_node)


def forecast_run(config: RunConfig, *, cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Count what the first epoch holds and what the whole run does, as JSON values by topic.

    Raises:
        ValueError: whatever would stop the run when it plans its first epoch.
    """
    shard_sets, model, data = plan_run(config, num_processes=cluster.gpus)
    plan = data.loader.plan(0)
    summary = summarize_plan(
        plan,
        rows_per_step=config.batch.rows_per_step,
        rows_per_micro_batch=config.batch.rows_per_micro_batch,
        world_size=cluster.gpus,
    )
    sizes, counts = read_sizes(model), weight_counts(model)
    time = _time(model, plan, summary, data.total_steps, cluster=cluster)
    return {
        "run": {
            "steps": data.total_steps,
            "epochs": round(data.total_steps / summary.steps, 2),
            "gpus": cluster.gpus,
            "nodes": cluster.nodes,
            "micro_batches_per_step_and_gpu": config.batch.micro_batches(cluster.gpus),
        },
        "epoch": _epoch(summary),
        "model": {
            "parameters": counts.total,
            "trained_parameters": counts.trained,
            "image_size": sizes.image_size,
            "positions_per_image": sizes.grid.positions_per_input,
        },
        "time": time,
        "reading": _reading(shard_sets, config, plan, cluster, epoch_hours=time["hours_per_epoch"]),
        "memory": memory_facts(
            GpuMemory(model, plan),
            config,
            num_gpus=cluster.gpus,
            gpus_per_node=cluster.gpus_per_node,
            gpu_memory_gb=cluster.memory_gb,
        ),
    }


def plan_run(
    config: RunConfig, *, num_processes: int
) -> tuple[list[ShardSet], VisualChat, RunData]:
    """Open the shards, make the model without its weights, and plan the data as rank 0 would."""
    shard_sets = open_run_shards(config)
    tokenizer = shard_sets[0].tokenizer()
    with torch.device("meta"):
        model = build_model(
            config.model,
            image_token_id=tokenizer.image_id,
            num_ids=tokenizer.num_ids,
            seed=config.run.seed,
        )
    freeze_other_parts(model, config.train.parts)
    share = RankShare(rank=0, world_size=num_processes)
    return shard_sets, model, RunData(shard_sets, config, sizes=read_sizes(model), share=share)


def _epoch(summary: PlanSummary) -> dict[str, Any]:
    return {
        "steps": summary.steps,
        "samples": summary.samples,
        "samples_left_out_too_long": summary.excluded,
        "rows": summary.rows,
        "text_tokens": summary.text_tokens,
        "supervised_tokens": summary.supervised_tokens,
        "images": summary.images,
        "image_positions": summary.image_positions,
        "padding_share": round(summary.padding_share, 4),
    }


def _time(
    model: VisualChat, plan: EpochPlan, summary: PlanSummary, steps: int, *, cluster: Cluster
) -> dict[str, Any]:
    """Operations of the run, and how long they take at the expected share of the peak."""
    epoch = flops_of(model).total(
        positions=summary.text_tokens + summary.image_positions,
        pairs=pairs_of_epoch(plan, attention=model.config.attention),
        supervised=summary.supervised_tokens,
        images=int(plan.index.image_inputs(plan.arguments.grid)[plan.samples].sum()),
    )
    epochs = steps / summary.steps
    per_hour = cluster.tflops and cluster.tflops * 1e12 * cluster.mfu * cluster.gpus * 3600
    return {
        "operations": epoch * epochs,
        "gpu_tflops": cluster.tflops,
        "mfu": cluster.mfu,
        "hours_per_epoch": per_hour and epoch / per_hour,
        "hours": per_hour and epoch * epochs / per_hour,
        "seconds_per_step": per_hour and epoch / summary.steps / per_hour * 3600,
        "gpu_hours": per_hour and epoch * epochs / per_hour * cluster.gpus,
    }


def _reading(
    shard_sets: Sequence[ShardSet],
    config: RunConfig,
    plan: EpochPlan,
    cluster: Cluster,
    *,
    epoch_hours: float | None,
) -> dict[str, Any]:
    """Bytes that the busiest node reads of the shards, and how fast it must get them."""
    work = rank_work(
        plan,
        spans=SampleSpans.of(join_sets(shard_sets, split=config.data.split)),
        rows_per_step=config.batch.rows_per_step,
        rows_per_micro_batch=config.batch.rows_per_micro_batch,
        world_size=cluster.gpus,
    )
    first_ranks = np.arange(0, cluster.gpus, cluster.gpus_per_node)
    per_node = int(np.add.reduceat(np.array(work.bytes), first_ranks).max())
    rate = epoch_hours and per_node / (epoch_hours * 3600) / 1e6
    return {
        "bytes_per_epoch": sum(work.bytes),
        "bytes_per_node_and_epoch": per_node,
        "megabytes_per_second_and_node": rate,
        "image_imbalance": round(work.image_imbalance, 3),
    }
