"""One run from its configuration to its last checkpoint, on all ranks.

Importing this takes no library of models: those are imported once the processes of the run are
connected and its folder is theirs, so that a run that cannot start says so at once.
"""

from __future__ import annotations

from pathlib import Path

from vchat.base.files import write_atomically
from vchat.base.imports import pause_collection
from vchat.base.terminal_text import echo
from vchat.base.toml_config import to_table
from vchat.train.checkpoints.background import Background
from vchat.train.config.run import RunConfig
from vchat.train.engine.processes import (
    RankShare,
    StopRequest,
    connect_processes,
    count_local_ranks,
    explain_lost_ranks,
)
from vchat.train.run.run_folder import lock_run_folder


def run_training(config: RunConfig) -> None:
    """Train as configured, going on from the newest complete checkpoint in `run.out`.

    May be called again in the same processes.

    Raises:
        ValueError: if that checkpoint belongs to another run, or another process uses the folder.
    """
    with StopRequest() as stop, explain_lost_ranks():
        rank, world_size = connect_processes()
        share = RankShare(rank=rank, world_size=world_size, ranks_per_node=count_local_ranks())
        with lock_run_folder(config.run.out, rank=rank), Background() as background:
            _prepare_and_train(config, share, stop=stop, background=background)


def _prepare_and_train(
    config: RunConfig, share: RankShare, *, stop: StopRequest, background: Background
) -> None:
    with pause_collection():
        import torch.distributed as dist

        from vchat.train.logs.log import TrainingLog
        from vchat.train.logs.trackers import open_trackers
        from vchat.train.run.loop import train
        from vchat.train.run.prepare import prepare_run
        from vchat.train.run.speed import build_speed_meter

    out, rank = config.run.out, share.rank
    run = prepare_run(config, share, background=background)
    first, last = run.data.steps_done, run.data.total_steps
    start = f"going on after step {first}" if first else "starting"
    print_on_rank_0(f"{out}: {start}, {last} steps in all", rank=rank)
    if rank == 0 and (unknown := run.data.describe_unknown_keys()):
        print_on_rank_0(unknown, rank=rank)
    with TrainingLog(
        out / "log.jsonl",
        rank=rank,
        first_step=first,
        total_steps=last,
        open_trackers=lambda: open_trackers(
            out,
            first_step=first,
            tensorboard=config.run.tensorboard,
            wandb_project=config.run.wandb,
            settings=to_table(config),
        ),
    ) as log:
        step = train(
            run.engine,
            run.data,
            run=config.run,
            optimizer=config.optimizer,
            log=log,
            limit=run.limit,
            skipped=run.skipped,
            stop=stop,
            speed=build_speed_meter(
                run.engine.module,
                run.data,
                gpu_tflops=config.run.gpu_tflops,
                world_size=share.world_size,
            ),
            save=run.save,
        )
    background.wait()
    dist.barrier()
    if rank == 0 and step == last:
        _mark_finished(out, step=step)
    end = "done:" if step == last else "stopped by a signal, can go on:"
    print_on_rank_0(
        f"{end} step {step} of {last}, saved in {out}{run.skipped.describe()}", rank=rank
    )


def _mark_finished(out: Path, *, step: int) -> None:
    with write_atomically(out / "finished") as file:
        file.write(f"step {step}\n".encode())


def print_on_rank_0(text: str, *, rank: int) -> None:
    """Write a line to stderr; rank 0 speaks for all."""
    if rank == 0:
        echo(text, err=True)
