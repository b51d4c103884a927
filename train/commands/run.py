"""`vchat-train run`: train as RUN.toml says, in the process that a launcher started or alone."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.train.commands.options import RUN_FILE, SETTINGS
from vchat.train.config.run import find_run_file, read_run


@click.command("run")
@RUN_FILE
@SETTINGS
def run(run_file: Path, overrides: tuple[str, ...]) -> None:
    """Train as RUN.toml says. If its run.out holds a checkpoint, go on from there.

    Alone this is one process. On several:

    \b
        deepspeed --module vchat.train run RUN.toml
        torchrun --nproc-per-node 2 -m vchat.train run RUN.toml

    Trust run.out and run.mirror as you trust code: the run goes on with what lies there. Checkpoint
    files of DeepSpeed are pickles; they are read as weights only, and refused if they would execute
    anything.
    """
    from vchat.train.engine.processes import (
        block_sigusr1,
        disconnect_processes,
        prepare_environment,
    )

    block_sigusr1()
    config = read_run(find_run_file(run_file), overrides=overrides)
    prepare_environment()
    from vchat.train.run.launch import run_training

    run_training(config)
    disconnect_processes()
