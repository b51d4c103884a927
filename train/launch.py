"""One run from its configuration to its last checkpoint, on all ranks."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist
from vchat.model.visual_chat import VisualChat
from vchat.shards.manifest import ShardSet, open_shards
from vchat.train.checkpoint import Checkpoint, newest_complete, open_checkpoint
from vchat.train.config import RunConfig
from vchat.train.data import RunData, Share
from vchat.train.engine import start_engine
from vchat.train.identity import check_same_run, identity_of
from vchat.train.log import TrainingLog
from vchat.train.loop import train
from vchat.train.processes import StopRequest, start_processes
from vchat.train.saving import load_checkpoint, save_checkpoint
from vchat.train.starting_model import build_model, load_model, sizes_of
from vchat.train.universal import needs_conversion


def run_training(config: RunConfig) -> None:
    """Train as configured, going on from the newest complete checkpoint in `run.out`.

    Raises:
        ValueError: if that checkpoint belongs to another run, or another process uses the folder.
    """
    stop = StopRequest()
    rank, world_size = start_processes()
    lock = locked(config.run.out) if rank == 0 else None
    shard_set = open_shards(config.data.shards)
    checkpoint = agreed_checkpoint(config.run.out)
    identity = identity_of(config, shard_set)
    if checkpoint is not None:
        check_same_run(identity, checkpoint)
    model = starting_model(config, shard_set, checkpoint=checkpoint)
    share = Share(rank=rank, world_size=world_size)
    data = RunData(shard_set, config, sizes=sizes_of(model), share=share)
    load_universal = checkpoint is not None and needs_conversion(
        checkpoint, zero_stage=config.deepspeed.zero_stage, world_size=world_size
    )
    engine = start_engine(model, config, world_size=world_size, load_universal=load_universal)
    torch.manual_seed(config.run.seed + rank)  # dropout differs between ranks
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint)
        data.resume(checkpoint.state["loader"], steps_done=checkpoint.step)

    def save(step: int) -> None:
        save_checkpoint(
            engine,
            config,
            step=step,
            loader_state=data.state(),
            identity=identity,
            tokenizer=shard_set.tokenizer(),
        )

    announce(config, rank, data=data)
    with TrainingLog(
        config.run.out / "log.jsonl",
        rank=rank,
        first_step=data.steps_done,
        total_steps=data.total_steps,
    ) as log:
        last = train(engine, data, config=config, log=log, stop=stop, save=save)
    if rank == 0:
        sys.stderr.write(f"done: step {last} of {data.total_steps}, saved in {config.run.out}\n")
    if lock is not None:
        lock.close()


def starting_model(
    config: RunConfig, shard_set: ShardSet, *, checkpoint: Checkpoint | None
) -> VisualChat:
    """The model of the checkpoint, or the one the configuration describes."""
    if checkpoint is not None:
        return load_model(checkpoint.folder)
    tokenizer = shard_set.tokenizer()
    return build_model(
        config.model,
        image_token_id=tokenizer.image_id,
        num_ids=tokenizer.num_ids,
        seed=config.run.seed,
    )


def agreed_checkpoint(out: Path) -> Checkpoint | None:
    """The newest complete checkpoint as rank 0 sees it; the same on all ranks, or None."""
    found = [str(newest_complete(out) or "") if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(found, src=0)
    return open_checkpoint(Path(found[0])) if found[0] else None


def locked(out: Path) -> IO[str]:
    """Keep a second run out of the folder until the returned file is closed, or the process ends.

    Raises:
        ValueError: if another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = (out / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        file.close()
        raise ValueError(f"{out}: another run is writing there") from err
    return file


def announce(config: RunConfig, rank: int, *, data: RunData) -> None:
    """Say on rank 0 where the run starts."""
    if rank != 0:
        return
    begun = f"going on after step {data.steps_done}" if data.steps_done else "starting"
    sys.stderr.write(f"{config.run.out}: {begun}, {data.total_steps} steps in all\n")
