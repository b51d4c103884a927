"""`vchat-train where`: which samples were in a step, and which steps saw a sample.

The epoch plan answers, so nothing was recorded during training: RUN.toml, the shard set and a step
are enough, before, during or after the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from vchat.base.progress import show_progress
from vchat.shards.format.sample import RecordOrigin, Sample
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.epoch import EpochPlan, deal_rows
from vchat.shards.plan.joined_sets import JoinedSets, join_sets
from vchat.train.config.run import RunConfig
from vchat.train.forecast.forecast import plan_run
from vchat.train.logs.log import read_log
from vchat.train.run.data import count_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """Where one sample stands in a step."""

    step: int
    """Optimizer step, from 1."""

    epoch: int
    row: int
    """Row of the epoch plan."""

    rank: int
    micro_batch: int
    number: int
    """Of the sample in the index of its split."""

    key: str


def list_step_samples(
    loader: Loader, config: RunConfig, *, step: int, num_processes: int
) -> Iterator[StepSample]:
    """Yield the samples of a step, rank by rank, as that many processes would read them.

    Raises:
        ValueError: if the run has no such step.
    """
    last = count_steps(loader, config)
    if not 1 <= step <= last:
        raise ValueError(f"step {step}: the run has steps 1 to {last}")
    epoch, step_in_epoch = locate_step(loader, config, step=step)
    plan, rows_per_step = loader.plan(epoch), config.batch.rows_per_step
    rows = plan.rows_of_step(step_in_epoch * rows_per_step, rows_per_step=rows_per_step)
    for rank in range(num_processes):
        micro_batches = deal_rows(
            rows,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=config.batch.rows_per_micro_batch,
            rank=rank,
            world_size=num_processes,
        )
        for micro_batch, places in enumerate(micro_batches):
            for row in places:
                for number in [] if row is None else plan.row(row):
                    yield StepSample(
                        step=step,
                        epoch=epoch,
                        row=int(row or 0),
                        rank=rank,
                        micro_batch=micro_batch,
                        number=int(number),
                        key=plan.index.keys[int(number)],
                    )


def read_num_processes(out: Path, *, step: int) -> int | None:
    """Return how many processes made a step, as the log of a run says; None if it says nothing.

    Resumes may change their number. A step between two logged ones counts to the later one.
    """
    if not (out / "log.jsonl").is_file():
        return None
    later = (line for line in read_log(out / "log.jsonl") if line["step"] >= step)
    return next(later, {}).get("processes")


def locate_step(loader: Loader, config: RunConfig, *, step: int) -> tuple[int, int]:
    """Return the epoch of a step and its number in it, both from 0."""
    before, epoch = step - 1, 0
    while before >= (steps := loader.plan(epoch).num_steps(config.batch.rows_per_step)):
        before -= steps
        epoch += 1
    return epoch, before


def find_steps_of_sample(loader: Loader, config: RunConfig, *, number: int) -> list[int]:
    """Return the steps of the run in which the sample of this number is read, ascending."""
    last, first, epoch = count_steps(loader, config), 1, 0
    found: set[int] = set()
    while first <= last:
        plan = loader.plan(epoch)
        found |= {first + step for step in find_steps_in_plan(plan, config, number=number)}
        first, epoch = first + plan.num_steps(config.batch.rows_per_step), epoch + 1
    return sorted(step for step in found if step <= last)


def find_steps_in_plan(plan: EpochPlan, config: RunConfig, *, number: int) -> list[int]:
    """Return the steps of one epoch, from 0, that hold the sample of that number."""
    rows_per_step = config.batch.rows_per_step
    places = np.flatnonzero(plan.samples == number)
    rows = np.searchsorted(plan.row_offsets, places, side="right") - 1
    steps = [int(row) // rows_per_step for row in rows]
    return [step for step in steps if step < plan.num_steps(rows_per_step)]


def print_step(
    config: RunConfig,
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
    shard_sets, _, data = plan_run(config, num_processes=num_processes)
    places = list_step_samples(data.loader, config, step=step, num_processes=num_processes)
    asked = [p for p in places if rank in (None, p.rank) and row in (None, p.row)]
    if not asked:
        of = "".join(f" {name} {n}" for name, n in (("rank", rank), ("row", row)) if n is not None)
        raise ValueError(f"step {step} has no sample of{of} on {num_processes} processes")
    sets = join_sets(shard_sets, split=config.data.split)
    lines = [
        (
            str(place.rank),
            str(place.micro_batch),
            str(place.row),
            place.key,
            *_record_fields(record),
        )
        for place in asked
        for record in read_sample(sets, place.number).records
    ]
    _print_lines(("rank", "micro-batch", "row", "sample", "record", "id", "file"), lines)


def print_sample(config: RunConfig, *, key: str) -> None:
    """Print the steps that read a sample or a record, one per line on stdout.

    Raises:
        ValueError: neither a sample nor a record of the split has this key.
    """
    shard_sets, _, data = plan_run(config, num_processes=1)
    sets = join_sets(shard_sets, split=config.data.split)
    keys = data.loader.index.keys
    numbers = [i for i in range(len(keys)) if keys[i] == key] or find_by_record(sets, key)
    if not numbers:
        raise ValueError(f"{key}: no sample or record of split {config.data.split} has this key")
    for number in numbers:
        if keys[number] != key:
            sys.stderr.write(f"record {key} is in sample {keys[number]}\n")
        for step in find_steps_of_sample(data.loader, config, number=number):
            sys.stdout.write(f"{step}\n")


def read_sample(sets: JoinedSets, number: int) -> Sample:
    """Read one sample by its number in the plan, checked against its checksums."""
    shard_set, entry = sets.locate(number)
    return shard_set.read_sample(entry)


def find_by_record(sets: JoinedSets, key: str) -> list[int]:
    """Return the numbers of the samples that hold a record among others; reads all of these."""
    several = np.flatnonzero(sets.table["num_records"].to_numpy() > 1).tolist()
    found = []
    with show_progress(f"looking for {key}", total=len(several), unit="samples") as done:
        for number in several:
            if any(record.key == key for record in read_sample(sets, number).records):
                found.append(number)
            done(1)
    return found


def _record_fields(record: RecordOrigin) -> tuple[str, str, str]:
    return record.key, record.record_id, record.file


def _print_lines(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        for line in (titles, *lines):
            sys.stdout.write("\t".join(line) + "\n")
        return
    table = Table(box=box.SIMPLE)
    for title in titles:
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(*line)
    Console(file=sys.stdout).print(table)
