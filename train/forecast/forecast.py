"""Forecast a run: its steps, data, memory per GPU, operations and hours.

Reads only the index of the shard sets. The model is built on the meta device, without memory for
its weights.
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
from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.plan.summary import PlanSummary, summarize_plan
from vchat.train.config.run import RunConfig
from vchat.train.costs.flops import flops_of, pairs_of_epoch
from vchat.train.costs.memory import weight_counts
from vchat.train.engine.parts import freeze_other_parts
from vchat.train.engine.processes import RankShare
from vchat.train.engine.starting_model import build_model, read_sizes
from vchat.train.forecast.gpu_memory import GpuMemory, memory_facts
from vchat.train.run.data import RunData, open_run_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The machines of a planned run."""

    gpus: int
    gpus_per_node: int
    memory_gb: float | None
    """Of one GPU; None if unknown, then the forecast does not say whether the run fits."""

    tflops: float | None
    """Peak of one GPU, 10^12 operations per second; None if unknown, then there are no hours."""

    mfu: float
    """Share of the peak that the run is expected to reach."""

    @property
    def nodes(self) -> int:
        """The number of machines that the GPUs are in."""
        return math.ceil(self.gpus / self.gpus_per_node)


def forecast_run(config: RunConfig, *, cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return JSON values by topic: of the first epoch, and extrapolated to the whole run.

    Args:
        config: The run.
        cluster: Its machines.

    Raises:
        ValueError: An error that would stop the run when it plans its first epoch.
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
    time = _time_facts(model, plan, summary, data.total_steps, cluster=cluster)
    return {
        "run": {
            "steps": data.total_steps,
            "epochs": round(data.total_steps / summary.steps, 2),
            "gpus": cluster.gpus,
            "nodes": cluster.nodes,
            "micro_batches_per_step_and_gpu": config.batch.micro_batches(cluster.gpus),
        },
        "epoch": _epoch_facts(plan, summary) | {"unknown_keys": data.find_unknown_keys()},
        "model": {
            "parameters": counts.total,
            "trained_parameters": counts.trained,
            "image_size": sizes.image_size,
            "positions_per_image": sizes.grid.positions_per_input,
        },
        "time": time,
        "reading": _reading_facts(
            shard_sets, config, plan, cluster, epoch_hours=time["hours_per_epoch"]
        ),
        "memory": memory_facts(
            GpuMemory(model, plan),
            config,
            num_gpus=cluster.gpus,
            gpus_per_node=cluster.gpus_per_node,
            gpu_memory_gb=cluster.memory_gb,
        ),
    }


def plan_run(
    config: RunConfig, *, num_processes: int, exclude_history: ExcludeHistory | None = None
) -> tuple[list[ShardSet], VisualChat, RunData]:
    """Open the shards, build the model on the meta device, and plan the data as rank 0 does.

    Args:
        config: The run.
        num_processes: That make it.
        exclude_history: The list of each epoch; by default all have that of `data.exclude`.
    """
    shard_sets = open_run_shards(config.data, storage=config.storage)
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
    sizes = read_sizes(model)
    data = RunData(
        shard_sets,
        config.data,
        config.batch,
        config.run,
        sizes=sizes,
        share=share,
        exclude_history=exclude_history,
    )
    return shard_sets, model, data


def _epoch_facts(plan: EpochPlan, summary: PlanSummary) -> dict[str, Any]:
    return {
        "steps": summary.steps,
        "samples": summary.samples,
        "samples_left_out_too_long": summary.excluded,
        "keys_to_exclude": len(plan.arguments.exclude),
        "samples_left_out_by_key": plan.num_tombstones,
        "rows": summary.rows,
        "text_tokens": summary.text_tokens,
        "supervised_tokens": summary.supervised_tokens,
        "images": summary.images,
        "image_positions": summary.image_positions,
        "padding_share": round(summary.padding_share, 4),
    }


def _time_facts(
    model: VisualChat, plan: EpochPlan, summary: PlanSummary, steps: int, *, cluster: Cluster
) -> dict[str, Any]:
    """Return the operations of the run, and their hours at the expected share of the peak."""
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


def _reading_facts(
    shard_sets: Sequence[ShardSet],
    config: RunConfig,
    plan: EpochPlan,
    cluster: Cluster,
    *,
    epoch_hours: float | None,
) -> dict[str, Any]:
    """Return the bytes that are read, and the rate that the busiest node needs."""
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
