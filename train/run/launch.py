"""One run from its configuration to its last checkpoint, on all ranks."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from vchat.base.files import written_whole
from vchat.model.visual_chat import VisualChat
from vchat.shards.format.manifest import ShardSet
from vchat.train.checkpoints.background import Background
from vchat.train.checkpoints.checkpoint import Checkpoint, newest_complete, open_checkpoint
from vchat.train.checkpoints.identity import Identity, check_same_run, identity_of
from vchat.train.checkpoints.mirror import Mirror, fetch_if_newer
from vchat.train.checkpoints.saving import load_checkpoint, save_checkpoint
from vchat.train.checkpoints.universal import needs_conversion
from vchat.train.config.run import RunConfig
from vchat.train.engine.engine import loading_for, start_engine
from vchat.train.engine.loading import Loading
from vchat.train.engine.nvme import prepare_nvme
from vchat.train.engine.processes import (
    StopRequest,
    lost_ranks_in_one_line,
    ranks_per_node,
    start_processes,
)
from vchat.train.engine.starting_model import build_model, load_model, sizes_of
from vchat.train.run.bad_loss import LossLimit
from vchat.train.run.data import RunData, Share, open_sets
from vchat.train.run.log import TrainingLog
from vchat.train.run.loop import train
from vchat.train.run.speed import speed_of
from vchat.train.run.trackers import open_trackers

LOCK_WAIT_S = 15.0
SHARED_WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run whose engine and data stand where its newest checkpoint left them."""

    config: RunConfig
    shard_sets: list[ShardSet]
    identity: Identity
    engine: deepspeed.DeepSpeedEngine
    data: RunData
    limit: LossLimit
    background: Background

    def save(self, step: int) -> None:
        """Write the checkpoint of a step; all ranks call it."""
        save_checkpoint(
            self.engine,
            self.config,
            step=step,
            loader_state=self.data.state(),
            recent_losses=list(self.limit.recent),
            identity=self.identity,
            tokenizer=self.shard_sets[0].tokenizer(),
            background=self.background,
        )


def run_training(config: RunConfig) -> None:
    """Train as configured, going on from the newest complete checkpoint in `run.out`.

    May be called again in the same processes.

    Raises:
        ValueError: if that checkpoint belongs to another run, or another process uses the folder.
    """
    out = config.run.out
    with StopRequest() as stop, lost_ranks_in_one_line():
        rank, world_size = start_processes()
        with only_run_in(out, rank=rank), Background() as background:
            nodes = ranks_per_node()
            share = Share(rank=rank, world_size=world_size, ranks_per_node=nodes)
            run = opened(config, share, background=background)
            data = run.data
            begun = f"going on after step {data.steps_done}" if data.steps_done else "starting"
            say(f"{out}: {begun}, {data.total_steps} steps in all", rank=rank)
            with TrainingLog(
                out / "log.jsonl",
                rank=rank,
                first_step=data.steps_done,
                total_steps=data.total_steps,
                open_trackers=lambda: open_trackers(config, first_step=data.steps_done),
            ) as log:
                last = train(
                    run.engine,
                    data,
                    config=config,
                    log=log,
                    limit=run.limit,
                    stop=stop,
                    speed=speed_of(
                        run.engine.module,
                        data,
                        gpu_tflops=config.run.gpu_tflops,
                        world_size=world_size,
                    ),
                    save=run.save,
                )
            background.wait()
            dist.barrier()
            if rank == 0 and last == data.total_steps:
                with written_whole(out / "finished") as file:
                    file.write(f"step {last}\n".encode())
            ended = "done:" if last == data.total_steps else "stopped by a signal, can go on:"
            say(f"{ended} step {last} of {data.total_steps}, saved in {out}", rank=rank)


def opened(config: RunConfig, share: Share, *, background: Background) -> OpenRun:
    """Make model, data and engine, and put them where the newest checkpoint left them."""
    prepare_nvme(config)
    shard_sets = open_sets(config)
    identity = identity_of(config, shard_sets)
    checkpoint = agreed_checkpoint(config)
    if checkpoint is not None:
        check_same_run(identity, checkpoint)
    loading = loading_for(config, world_size=share.world_size)
    model = starting_model(config, shard_sets[0], checkpoint=checkpoint, loading=loading)
    data = RunData(shard_sets, config, sizes=sizes_of(model), share=share)
    engine = start_engine(
        model,
        config,
        world_size=share.world_size,
        load_universal=checkpoint is not None
        and needs_conversion(
            checkpoint, zero_stage=config.deepspeed.zero_stage, world_size=share.world_size
        ),
    )
    torch.manual_seed(config.run.seed + share.rank)  # dropout differs between ranks
    limit = LossLimit(config.optimizer)
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint)
        data.resume(checkpoint.state["loader"], steps_done=checkpoint.step)
        limit = LossLimit(config.optimizer, recent=checkpoint.state.get("recent_losses", []))
    return OpenRun(
        config=config,
        shard_sets=shard_sets,
        identity=identity,
        engine=engine,
        data=data,
        limit=limit,
        background=background,
    )


def starting_model(
    config: RunConfig, shard_set: ShardSet, *, checkpoint: Checkpoint | None, loading: Loading
) -> VisualChat:
    """The model of the checkpoint, or the one the configuration describes."""
    if checkpoint is not None:
        return load_model(checkpoint.folder, loading=loading)
    tokenizer = shard_set.tokenizer()
    return build_model(
        config.model,
        image_token_id=tokenizer.image_id,
        num_ids=tokenizer.num_ids,
        seed=config.run.seed,
        loading=loading,
    )


def agreed_checkpoint(config: RunConfig) -> Checkpoint | None:
    """The newest complete checkpoint as rank 0 sees it; the same on all ranks, or None."""
    found = [""]
    if dist.get_rank() == 0:
        out, mirror = config.run.out, config.run.mirror
        if mirror is not None:
            fetch_if_newer(Mirror(mirror, storage=config.storage), out)
        found = [str(newest_complete(out) or "")]
    dist.broadcast_object_list(found, src=0)
    return open_checkpoint(Path(found[0])) if found[0] else None


@contextlib.contextmanager
def only_run_in(out: Path, *, rank: int) -> Iterator[None]:
    """Keep a second run out of the folder during the block; rank 0 holds the lock.

    The system lets go of it when the process ends, however it ends. The processes of a killed run
    need a moment for that, so a held lock is waited for.

    Raises:
        ValueError: on all ranks, if another process still holds it after `LOCK_WAIT_S`, or if not
            all hosts see one folder there.
    """
    with contextlib.ExitStack() as held:
        token = [_token(out) if rank == 0 and _locked(out, held) else ""]
        dist.broadcast_object_list(token, src=0)
        if not token[0]:
            raise ValueError(f"{out}: another run is writing there")
        seen = [False] * dist.get_world_size()
        dist.all_gather_object(seen, sees_token(out, token[0], wait_s=SHARED_WAIT_S))
        if not all(seen):
            blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
            raise ValueError(
                f"{out}: ranks {', '.join(blind)} see another folder there than rank 0; run.out "
                "must be one folder that all hosts share"
            )
        yield


def _token(out: Path) -> str:
    """Write down a word that no other folder holds, and return it."""
    token = uuid.uuid4().hex
    with written_whole(out / ".token") as file:
        file.write(token.encode())
    return token


def sees_token(out: Path, token: str, *, wait_s: float) -> bool:
    """Whether the folder holds that word; network folders may show it a little later."""
    last = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(FileNotFoundError):
            if (out / ".token").read_text() == token:
                return True
        if time.monotonic() > last:
            return False
        time.sleep(0.2)


def _locked(out: Path, held: contextlib.ExitStack) -> bool:
    """Lock a folder until `held` is closed; False if it stays locked by another process."""
    out.mkdir(parents=True, exist_ok=True)
    file = held.enter_context((out / ".lock").open("w"))
    last = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                return False
            time.sleep(0.5)
        else:
            return True


def say(text: str, *, rank: int) -> None:
    """Rank 0 speaks for all."""
    if rank == 0:
        sys.stderr.write(f"{text}\n")
