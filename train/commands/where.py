"""`vchat-train where`: which samples a step reads, or which steps read a sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vchat.base.imports import pause_collection
from vchat.base.terminal_text import cell, echo
from vchat.train.commands.options import RUN_FILE, SETTINGS
from vchat.train.config.run import find_run_file, read_run

if TYPE_CHECKING:
    from vchat.shards.format.shard_set import ShardSet
    from vchat.train.run.data import RunData


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
    """Print which samples a step reads, with their records, or which steps read a sample.

    Epochs that the run in run.out has begun left out what data.exclude named then; later ones will
    leave out what it names now.
    """
    if (step is None) == (key is None):
        raise click.UsageError("give either --step or --key")
    config = read_run(find_run_file(run_file), overrides=overrides)
    from vchat.train.engine.processes import prepare_environment

    prepare_environment()
    with pause_collection():
        from vchat.train.forecast.forecast import plan_run
        from vchat.train.run.data import read_exclude_list
        from vchat.train.where.exclude_lists import lists_of_run
        from vchat.train.where.lineage import read_num_processes

    history = lists_of_run(config.run.out, read_exclude_list(config.data))
    if key is not None:
        shard_sets, _, data = plan_run(config, num_processes=1, exclude_history=history)
        print_sample(shard_sets, data, key=key)
    elif step is not None:
        num_processes = processes or read_num_processes(config.run.out, step=step) or 1
        shard_sets, _, data = plan_run(config, num_processes=num_processes, exclude_history=history)
        print_step(shard_sets, data, step=step, num_processes=num_processes, rank=rank, row=row)


def print_step(
    shard_sets: Sequence[ShardSet],
    data: RunData,
    *,
    step: int,
    num_processes: int,
    rank: int | None = None,
    row: int | None = None,
) -> None:
    """Print the samples of a step with the records they were made of on stdout.

    A table in a terminal, else one line per record with tabs between its fields.

    Raises:
        ValueError: the run has no such step, or the step has no such rank or row.
    """
    from vchat.shards.plan.joined_sets import join_sets
    from vchat.train.where.lineage import read_sample, select_step_samples

    samples = select_step_samples(data, step=step, num_processes=num_processes, rank=rank, row=row)
    sets = join_sets(shard_sets, split=data.split)
    lines = [
        (
            str(sample.rank),
            str(sample.micro_batch),
            str(sample.row),
            sample.key,
            record.key,
            record.record_id,
            record.file,
        )
        for sample in samples
        for record in read_sample(sets, sample.number).records
    ]
    _print_lines(("rank", "micro-batch", "row", "sample", "record", "id", "file"), lines)


def print_sample(shard_sets: Sequence[ShardSet], data: RunData, *, key: str) -> None:
    """Print the steps that read a sample or a record, one per line on stdout.

    Raises:
        ValueError: neither a sample nor a record of the split has this key.
    """
    from vchat.shards.plan.joined_sets import join_sets
    from vchat.train.where.lineage import find_samples, find_steps_of_sample

    sets = join_sets(shard_sets, split=data.split)
    for number in find_samples(data, sets, key=key):
        sample_key = data.loader.index.keys[number]
        if sample_key != key:
            echo(f"record {key} is in sample {sample_key}", err=True)
        for step in find_steps_of_sample(data, number=number):
            echo(step)


def _print_lines(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if not sys.stdout.isatty():
        for line in (titles, *lines):
            echo("\t".join(line))
        return
    table = Table(box=box.SIMPLE)
    for title in titles:
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(*map(cell, line))
    Console(file=sys.stdout).print(table)
