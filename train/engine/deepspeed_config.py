"""RUN.toml -> DeepSpeed's dictionary. Its keys appear nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from vchat.train.config.run import BatchConfig, DeepSpeedConfig


def deepspeed_dictionary(
    sharding: DeepSpeedConfig,
    batch: BatchConfig,
    *,
    precision: Literal["fp32", "bf16", "fp16"],
    clip_norm: float,
    world_size: int,
    load_universal: bool = False,
) -> dict[str, Any]:
    """Return what `deepspeed.initialize` wants for a run on `world_size` processes.

    The batch numbers only tell DeepSpeed how many micro-batches make a step; which rows they hold
    is decided by the loader.

    Args:
        load_universal: whether the engine will load a universal checkpoint, see `universal.py`.
    """
    accumulation = batch.micro_batches(world_size)
    micro_batch = batch.rows_per_micro_batch
    return {
        "train_batch_size": micro_batch * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip_norm,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16"},
        "zero_optimization": _zero_section(sharding),
        "zero_allow_untested_optimizer": True,  # torch's AdamW, at every stage
        "zero_force_ds_cpu_optimizer": False,  # the same, when offloaded: no compiler needed
        "checkpoint": {"load_universal": load_universal},
        "steps_per_print": 2**31,  # our own log reports the steps
        "wall_clock_breakdown": False,
    }


def _zero_section(sharding: DeepSpeedConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": sharding.zero_stage}
    if sharding.offload_optimizer != "none":
        folder = sharding.nvme_folder
        zero["offload_optimizer"] = _offload_section(sharding.offload_optimizer, folder)
    if sharding.offload_parameters != "none":
        zero["offload_param"] = _offload_section(sharding.offload_parameters, sharding.nvme_folder)
    return zero


def _offload_section(device: str, nvme_folder: Path | None) -> dict[str, Any]:
    return {"device": device} | ({"nvme_path": str(nvme_folder)} if device == "nvme" else {})
