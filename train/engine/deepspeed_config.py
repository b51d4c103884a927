"""RunConfig -> DeepSpeed's dictionary. Its keys appear nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vchat.train.config.run import RunConfig


def deepspeed_dictionary(
    config: RunConfig, *, world_size: int, load_universal: bool = False
) -> dict[str, Any]:
    """Return what `deepspeed.initialize` wants for this run on `world_size` processes.

    The batch numbers only tell DeepSpeed how many micro-batches make a step; which rows they hold
    is the loader's business.
    """
    accumulation = config.batch.micro_batches(world_size)
    micro_batch = config.batch.rows_per_micro_batch
    return {
        "train_batch_size": micro_batch * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.clip_norm,
        "bf16": {"enabled": config.train.precision == "bf16"},
        "fp16": {"enabled": config.train.precision == "fp16"},
        "zero_optimization": _zero_section(config),
        "zero_allow_untested_optimizer": True,  # torch's AdamW, at every stage
        "zero_force_ds_cpu_optimizer": False,  # the same, when offloaded: no compiler needed
        "checkpoint": {"load_universal": load_universal},
        "steps_per_print": 2**31,  # our own log speaks
        "wall_clock_breakdown": False,
    }


def _zero_section(config: RunConfig) -> dict[str, Any]:
    sharding = config.deepspeed
    zero: dict[str, Any] = {"stage": sharding.zero_stage}
    if sharding.offload_optimizer != "none":
        zero["offload_optimizer"] = _offload_section(
            sharding.offload_optimizer, sharding.nvme_folder
        )
    if sharding.offload_parameters != "none":
        zero["offload_param"] = _offload_section(sharding.offload_parameters, sharding.nvme_folder)
    return zero


def _offload_section(device: str, nvme_folder: Path | None) -> dict[str, Any]:
    return {"device": device} | ({"nvme_path": str(nvme_folder)} if device == "nvme" else {})
