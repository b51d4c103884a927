"""Load a checkpoint into a fresh engine. All ranks take part."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import deepspeed
import torch.distributed as dist

from vchat.train.checkpoints.checkpoint import Checkpoint, verify_files
from vchat.train.checkpoints.random_state import load_random_state
from vchat.train.checkpoints.saving import TAG
from vchat.train.checkpoints.state_reading import read_weights_only
from vchat.train.checkpoints.universal import convert_state

LOG = logging.getLogger(__name__)


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint) -> None:
    """Put trained weights, optimizer and random state back; the engine is fresh, all ranks call it.

    DeepSpeed's files are pickles: each is compared with its listed SHA-256, and then read as
    weights only, see `state_reading.py`.

    Raises:
        ValueError: if a file changed since it was saved, or names anything to be executed.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    verify_files(checkpoint, sorted(checkpoint.files)[rank::world_size])
    dist.barrier()
    if engine.load_universal_checkpoint():
        with read_weights_only(checkpoint.folder / TAG):
            converted = convert_state(checkpoint, tag=TAG)
        with read_weights_only(converted):
            _load_engine_state(engine, converted)
        dist.barrier()
        if rank == 0:
            shutil.rmtree(converted)
    else:
        with read_weights_only(checkpoint.folder / TAG):
            _load_engine_state(engine, checkpoint.folder)
    load_random_state(checkpoint, rank=rank)


def _load_engine_state(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Let DeepSpeed read its files, and undo what its stage 3 does with a universal checkpoint.

    There every parameter group gets the settings of the first, and all parameters share one step
    counter, which each of them then counts up.
    """
    groups = engine.optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
    if path is None:
        raise ValueError(f"{folder / TAG}: DeepSpeed found no state to load there")
    for group, configured in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(configured)
    for state in engine.basic_optimizer.state.values():
        state["step"] = state["step"].clone()
    if engine.zero_nvme_offload_optimizer() and dist.get_rank() == 0:
        LOG.warning(
            "deepspeed.offload_optimizer = nvme: DeepSpeed saves but does not restore the moments "
            "of Adam, so they start anew from here; the weights are those of the checkpoint"
        )
