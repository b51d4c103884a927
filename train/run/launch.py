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

from vchat.base.files import write_atomically
from vchat.model.visual_chat import VisualChat
from vchat.shards.format.shard_set import ShardSet
from vchat.train.checkpoints.background import Background
from vchat.train.checkpoints.checkpoint import Checkpoint, find_newest, open_checkpoint
from vchat.train.checkpoints.identity import RunIdentity, check_same_run, collect_identity
from vchat.train.checkpoints.mirror import Mirror, download_if_newer
from vchat.train.checkpoints.saving import load_checkpoint, save_checkpoint
from vchat.train.checkpoints.universal import needs_conversion
from vchat.train.config.run import RunConfig
from vchat.train.engine.engine import choose_loading, start_engine
from vchat.train.engine.nvme import prepare_nvme
from vchat.train.engine.processes import (
    StopRequest,
    connect_processes,
    count_local_ranks,
    explain_lost_ranks,
)
from vchat.train.engine.starting_model import build_model, load_model, read_sizes
from vchat.train.engine.weight_loading import WeightLoading
from vchat.train.logs.log import TrainingLog
from vchat.train.logs.trackers import open_trackers
from vchat.train.run.bad_loss import LossLimit
from vchat.train.run.data import RankShare, RunData, open_run_shards
from vchat.train.run.loop import train
from vchat.train.run.speed import build_speed_meter

LOCK_WAIT_S = 15.0
TOKEN_WAIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run whose engine and data stand where its newest checkpoint left them."""

    config: RunConfig
    shard_sets: list[ShardSet]
    identity: RunIdentity
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
    with StopRequest() as stop, explain_lost_ranks():
        rank, world_size = connect_processes()
        with lock_run_folder(out, rank=rank), Background() as background:
            nodes = count_local_ranks()
            share = RankShare(rank=rank, world_size=world_size, ranks_per_node=nodes)
            run = prepare_run(config, share, background=background)
            data = run.data
            begun = f"going on after step {data.steps_done}" if data.steps_done else "starting"
            print_on_rank_0(f"{out}: {begun}, {data.total_steps} steps in all", rank=rank)
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
                    speed=build_speed_meter(
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
                with write_atomically(out / "finished") as file:
                    file.write(f"step {last}\n".encode())
            ended = "done:" if last == data.total_steps else "stopped by a signal, can go on:"
            print_on_rank_0(f"{ended} step {last} of {data.total_steps}, saved in {out}", rank=rank)


def prepare_run(config: RunConfig, share: RankShare, *, background: Background) -> RunState:
    """Make model, data and engine, and put them where the newest checkpoint left them."""
    prepare_nvme(config)
    shard_sets = open_run_shards(config)
    identity = collect_identity(config, shard_sets)
    checkpoint = choose_checkpoint(config)
    if checkpoint is not None:
        check_same_run(identity, checkpoint)
    loading = choose_loading(config, world_size=share.world_size)
    model = load_or_build_model(config, shard_sets[0], checkpoint=checkpoint, loading=loading)
    data = RunData(shard_sets, config, sizes=read_sizes(model), share=share)
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
    return RunState(
        config=config,
        shard_sets=shard_sets,
        identity=identity,
        engine=engine,
        data=data,
        limit=limit,
        background=background,
    )


def load_or_build_model(
    config: RunConfig, shard_set: ShardSet, *, checkpoint: Checkpoint | None, loading: WeightLoading
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


def choose_checkpoint(config: RunConfig) -> Checkpoint | None:
    """The newest complete checkpoint as rank 0 sees it; the same on all ranks, or None."""
    found = [""]
    if dist.get_rank() == 0:
        out, mirror = config.run.out, config.run.mirror
        if mirror is not None:
            download_if_newer(Mirror(mirror, storage=config.storage), out)
        found = [str(find_newest(out) or "")]
    dist.broadcast_object_list(found, src=0)
    return open_checkpoint(Path(found[0])) if found[0] else None


@contextlib.contextmanager
def lock_run_folder(out: Path, *, rank: int) -> Iterator[None]:
    """Keep a second run out of the folder during the block; rank 0 holds the lock.

    The system lets go of it when the process ends, however it ends. The processes of a killed run
    need a moment for that, so a held lock is waited for.

    Raises:
        ValueError: on all ranks, if another process still holds it after `LOCK_WAIT_S`, or if not
            all hosts see one folder there.
    """
    with contextlib.ExitStack() as held:
        token = [_write_token(out) if rank == 0 and _try_lock(out, held) else ""]
        dist.broadcast_object_list(token, src=0)
        if not token[0]:
            raise ValueError(f"{out}: another run is writing there")
        seen = [False] * dist.get_world_size()
        dist.all_gather_object(seen, sees_token(out, token[0], wait_s=TOKEN_WAIT_S))
        if not all(seen):
            blind = [str(rank) for rank, sees in enumerate(seen) if not sees]
            raise ValueError(
                f"{out}: ranks {', '.join(blind)} see another folder there than rank 0; run.out "
                "must be one folder that all hosts share"
            )
        yield


def _write_token(out: Path) -> str:
    """Write down a word that no other folder holds, and return it."""
    token = uuid.uuid4().hex
    with write_atomically(out / ".token") as file:
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


def _try_lock(out: Path, lock_stack: contextlib.ExitStack) -> bool:
    """Lock a folder until `held` is closed; False if it stays locked by another process."""
    out.mkdir(parents=True, exist_ok=True)
    file = lock_stack.enter_context((out / ".lock").open("w"))
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


def print_on_rank_0(text: str, *, rank: int) -> None:
    """Rank 0 speaks for all."""
    if rank == 0:
        sys.stderr.write(f"{text}\n")
