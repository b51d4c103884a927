"""The held-out loss of a saved checkpoint, outside of a run: a plain model, any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

from deepspeed.accelerator import get_accelerator

from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat.train.checkpoints.identity import shard_facts
from vchat.train.config.run import read_run
from vchat.train.engine.engine import DTYPES
from vchat.train.engine.processes import RankShare, connect_processes, count_local_ranks
from vchat.train.engine.starting_model import load_model, read_sizes
from vchat.train.run.data import RunData, open_run_shards
from vchat.train.run.heldout import HeldOutLoss, measure_heldout_loss


def measure_checkpoint(path: Path, *, shards: str | None, split: str | None) -> HeldOutLoss | None:
    """Measure a checkpoint with the settings of its run; None on ranks other than 0.

    Args:
        shards: another shard set than the run's.
        split: another split than the run's `data.eval_split`.

    Raises:
        ValueError: the shards have another tokenizer or template than the checkpoint.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.is_exported:
        raise ValueError(f"{path}: an exported model has no run.toml; want a run or step folder")
    settings = [] if shards is None else [f"data.shards={json.dumps(shards)}"]
    settings += [] if split is None else [f"data.eval_split={json.dumps(split)}"]
    config = read_run(checkpoint.folder / "run.toml", overrides=settings)
    rank, world_size = connect_processes()
    shard_sets = open_run_shards(config.data, storage=config.storage)
    for name in ("tokenizer_fingerprint", "template"):
        found, wanted = shard_facts(shard_sets)[name], checkpoint.shards[name]
        if found != wanted:
            raise ValueError(
                f"{config.data.sets[0].path}: {name} {found}, but the checkpoint was trained with"
                f" {wanted}"
            )
    model = load_model(checkpoint.folder).to(DTYPES[config.train.precision])
    model.to(get_accelerator().current_device_name())
    share = RankShare(rank=rank, world_size=world_size, ranks_per_node=count_local_ranks())
    sizes = read_sizes(model)
    data = RunData(shard_sets, config.data, config.batch, config.run, sizes=sizes, share=share)
    measured = measure_heldout_loss(model, data)
    return measured if rank == 0 else None
