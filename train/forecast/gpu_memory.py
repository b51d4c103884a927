"""Memory of a run on one GPU, part by part, and whether it fits."""

from __future__ import annotations

from typing import Any

from vchat.model.visual_chat import VisualChat
from vchat.shards.plan.epoch import EpochPlan
from vchat.train.config.run import RunConfig
from vchat.train.costs.memory import StateMemory, state_memory, weight_counts
from vchat.train.engine.engine import DTYPES
from vchat.train.forecast.activations import activation_bytes
from vchat.train.forecast.fitting import judge_fit
from vchat.train.forecast.twin import MicroBatch, TwinSettings


class GpuMemory:
    """The memory of a model and the rows of an epoch, under any settings that change no result."""

    def __init__(self, model: VisualChat, plan: EpochPlan):
        """`model` is of true size and on the meta device; `requires_grad` says what is trained."""
        self._model, self._plan = model, plan
        self._counts = weight_counts(model)
        self._measured: dict[tuple[bool, int], int] = {}

    def state_memory(self, config: RunConfig, num_gpus: int) -> StateMemory:
        """Return the memory of weights, gradients and optimizer."""
        return state_memory(
            self._counts,
            precision=config.train.precision,
            zero_stage=config.deepspeed.zero_stage,
            offloads_optimizer=config.deepspeed.offload_optimizer != "none",
            offloads_parameters=config.deepspeed.offload_parameters != "none",
            num_gpus=num_gpus,
        )

    def activation_bytes(self, config: RunConfig) -> int:
        """Return the bytes of the epoch's largest micro-batch; measured once for equal settings."""
        rows = config.batch.rows_per_micro_batch
        name = (config.train.gradient_checkpointing, rows)
        if name not in self._measured:
            batch = largest_micro_batch(self._plan, rows=rows)
            settings = TwinSettings(
                dtype=DTYPES[config.train.precision],
                parts=tuple(config.train.parts),
                gradient_checkpointing=config.train.gradient_checkpointing,
            )
            self._measured[name] = activation_bytes(self._model, settings, batch=batch)
        return self._measured[name]

    def total_bytes(self, config: RunConfig, num_gpus: int) -> int:
        """Return all bytes on one of `num_gpus` GPUs."""
        return self.state_memory(config, num_gpus).on_gpu + self.activation_bytes(config)


def memory_facts(
    memory: GpuMemory,
    config: RunConfig,
    *,
    num_gpus: int,
    gpus_per_node: int,
    gpu_memory_gb: float | None,
) -> dict[str, Any]:
    """Return the bytes on one GPU by purpose and, if its memory is given, whether they fit."""
    state = memory.state_memory(config, num_gpus)
    found = {
        "weights": state.weights,
        "gathered_weights": state.gathered,
        "gradients": state.gradients,
        "optimizer": state.optimizer,
        "activations": memory.activation_bytes(config),
        "total": memory.total_bytes(config, num_gpus),
        "offloaded_per_node": state.host * min(num_gpus, gpus_per_node),
    }
    if gpu_memory_gb is None:
        return found
    judged = judge_fit(config, memory.total_bytes, gpu_memory_gb=gpu_memory_gb, num_gpus=num_gpus)
    return found | {
        "usable": judged.usable_bytes,
        "fits": judged.fits,
        "changes": [{"set": one.setting, "cost": one.cost} for one in judged.changes],
        "total_with_changes": judged.needed_after,
        "gpus_that_fit_unchanged": judged.gpus,
    }


def largest_micro_batch(plan: EpochPlan, *, rows: int) -> MicroBatch:
    """Return a micro-batch at least as large as any of the epoch."""
    return MicroBatch(
        rows=rows,
        positions=plan.arguments.tokens_per_row,
        images=rows * int(plan.images_per_row.max()),
        supervised=rows * int(plan.num_supervised_per_row.max()),
    )
