"""`vchat-train where`: which samples a step reads, or which steps read a sample."""

from __future__ import annotations

from pathlib import Path

import click

from vchat.train.commands.options import RUN_FILE, SETTINGS
from vchat.train.config.run import find_run_file, read_run


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
