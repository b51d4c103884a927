"""The bodies of `vchat-train run` and `vchat-train plan`: read RUN.toml, then hand over.

A run that we ship is found by its name alone: `vchat-train run tiny.toml`.
"""

from __future__ import annotations

from pathlib import Path

import click
from vchat.train.config import read_run

_RUN_FILE = click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Replace one setting of RUN.toml; may be repeated.",
)


@click.command("run")
@_RUN_FILE
@_SET
def run(run_file: Path, overrides: tuple[str, ...]) -> None:
    """Train as RUN.toml says. If its run.out holds a checkpoint, go on from there.

    Alone this is one process. On several:

    \b
        deepspeed --module vchat.train run RUN.toml
        torchrun --nproc-per-node 2 -m vchat.train run RUN.toml
    """
    config = read_run(shipped_or_own(run_file), overrides=overrides)
    from vchat.train.processes import end_processes, prepare_environment

    prepare_environment()
    from vchat.train.launch import run_training

    run_training(config)
    end_processes()


@click.command("plan")
@_RUN_FILE
@_SET
@click.option("--processes", default=1, show_default=True, help="How many the run will have.")
def plan(run_file: Path, overrides: tuple[str, ...], processes: int) -> None:
    """Print what the run will do, before any GPU is rented: steps, tokens, padding, images."""
    config = read_run(shipped_or_own(run_file), overrides=overrides)
    from vchat.train.processes import prepare_environment

    prepare_environment()
    from vchat.train.forecast import print_forecast

    print_forecast(config, num_processes=processes)


def shipped_or_own(run_file: Path) -> Path:
    """The file itself, or the shipped run of that name if there is no such file here."""
    shipped = Path(__file__).parent / "runs" / run_file.name
    bare = run_file.name == str(run_file)
    return shipped if bare and not run_file.exists() and shipped.is_file() else run_file
