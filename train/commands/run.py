"""The bodies of `vchat-train run | where | report | export`: read RUN.toml, then hand over.

A run that we ship is found by its name alone: `vchat-train run tiny.toml`.
"""

from __future__ import annotations

from pathlib import Path

import click

from vchat.base.cli import WrongUse
from vchat.train.checkpoints.checkpoint import open_checkpoint
from vchat.train.config.run import read_run

RUN_FILE = click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))
SETTINGS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Replace one setting of RUN.toml; may be repeated.",
)


@click.command("run")
@RUN_FILE
@SETTINGS
def run(run_file: Path, overrides: tuple[str, ...]) -> None:
    """Train as RUN.toml says. If its run.out holds a checkpoint, go on from there.

    Alone this is one process. On several:

    \b
        deepspeed --module vchat.train run RUN.toml
        torchrun --nproc-per-node 2 -m vchat.train run RUN.toml
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


@click.command("where")
@RUN_FILE
@SETTINGS
@click.option("--step", type=int, help="List the samples of this optimizer step.")
@click.option("--key", help="List the steps that read the sample or record of this key.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="How many make the step.  [default: as many as the log of run.out says, else 1]",
)
@click.option("--rank", type=int, help="With --step: of this process only.")
@click.option("--row", type=int, help="With --step: of this row of the epoch only.")
def where(
    run_file: Path,
    overrides: tuple[str, ...],
    step: int | None,
    key: str | None,
    processes: int | None,
    rank: int | None,
    row: int | None,
) -> None:
    """Print which samples a step reads, with their records, or which steps read a sample."""
    if (step is None) == (key is None):
        raise click.UsageError("give either --step or --key")
    config = read_run(find_run_file(run_file), overrides=overrides)
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    from vchat.train.where.lineage import print_sample, print_step, read_num_processes

    if key is not None:
        print_sample(config, key=key)
    elif step is not None:
        made_by = processes or read_num_processes(config.run.out, step=step) or 1
        print_step(config, step=step, num_processes=made_by, rank=rank, row=row)


@click.command("report")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
def report(out: Path) -> None:
    """Draw the curves of the run in OUT (its run.out folder): OUT/report.html and report.png."""
    from vchat.train.report.report import write_report

    for path in write_report(out):
        click.echo(path)


def find_run_file(run_file: Path) -> Path:
    """The file itself, or the shipped run of that name if there is no such file here."""
    shipped = Path(__file__).parents[1] / "config" / "runs" / run_file.name
    bare = run_file.name == str(run_file)
    return shipped if bare and not run_file.exists() and shipped.is_file() else run_file


@click.command("export")
@click.option(
    "--checkpoint",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="A step folder, or a run's folder: then its newest checkpoint.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="A folder that does not exist."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    help="Of the weights; by default as saved.",
)
def export(path: Path, out: Path, precision: str | None) -> None:
    """Write a checkpoint as a plain Hugging Face folder, with LoRA merged.

    It loads with VisualChat.from_pretrained (package vchat.model) where neither vchat.train nor
    DeepSpeed is installed, and serves vchat-chat, eval and model.start_from like a checkpoint.
    """
    if out.exists():
        raise WrongUse(f"{out}: exists already, want a new folder")
    checkpoint = open_checkpoint(path)
    from vchat.train.convert.export import export_checkpoint as write_export
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    write_export(checkpoint, out, precision=precision)
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: {size / 1e6:,.1f} MB, of step {checkpoint.step}")
