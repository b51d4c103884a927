"""`vchat-train where`: which samples were in a step, and which steps saw a sample.

The epoch plan answers, so nothing was recorded during training: RUN.toml, the shard set and a step
are enough, before, during or after the run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from vchat.shards.epoch import EpochPlan, dealt
from vchat.shards.loader import Loader
from vchat.train.config import RunConfig
from vchat.train.data import total_steps
from vchat.train.forecast import planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
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


def samples_of_step(
    loader: Loader, config: RunConfig, *, step: int, num_processes: int
) -> Iterator[Place]:
    """Yield the samples of a step, rank by rank, as that many processes would read them.

    Raises:
        ValueError: if the run has no such step.
    """
    last = total_steps(loader, config)
    if not 1 <= step <= last:
        raise ValueError(f"step {step}: the run has steps 1 to {last}")
    epoch, step_in_epoch = place_of_step(loader, config, step=step)
    plan, rows_per_step = loader.plan(epoch), config.batch.rows_per_step
    rows = plan.rows_of_step(step_in_epoch * rows_per_step, rows_per_step=rows_per_step)
    for rank in range(num_processes):
        micro_batches = dealt(
            rows,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=config.batch.rows_per_micro_batch,
            rank=rank,
            world_size=num_processes,
        )
        for micro_batch, places in enumerate(micro_batches):
            for row in places:
                for number in [] if row is None else plan.row(row):
                    yield Place(
                        step=step,
                        epoch=epoch,
                        row=int(row or 0),
                        rank=rank,
                        micro_batch=micro_batch,
                        number=int(number),
                        key=plan.index.keys[int(number)],
                    )


def place_of_step(loader: Loader, config: RunConfig, *, step: int) -> tuple[int, int]:
    """Return the epoch of a step and its number in it, both from 0."""
    before, epoch = step - 1, 0
    while before >= (steps := loader.plan(epoch).num_steps(config.batch.rows_per_step)):
        before -= steps
        epoch += 1
    return epoch, before


def steps_of_sample(loader: Loader, config: RunConfig, *, key: str) -> list[int]:
    """Return the steps of the run in which a sample is read, ascending.

    Raises:
        ValueError: if the split has no sample of that key.
    """
    keys = loader.index.keys
    number = next((i for i in range(len(keys)) if keys[i] == key), None)
    if number is None:
        raise ValueError(f"{key}: no sample of split {config.data.split} has this key")
    last, first, epoch = total_steps(loader, config), 1, 0
    found: set[int] = set()
    while first <= last:
        plan = loader.plan(epoch)
        found |= {first + step for step in steps_in_plan(plan, config, number=number)}
        first, epoch = first + plan.num_steps(config.batch.rows_per_step), epoch + 1
    return sorted(step for step in found if step <= last)


def steps_in_plan(plan: EpochPlan, config: RunConfig, *, number: int) -> list[int]:
    """Return the steps of one epoch, from 0, that hold the sample of that number."""
    rows_per_step = config.batch.rows_per_step
    places = np.flatnonzero(plan.samples == number)
    rows = np.searchsorted(plan.row_offsets, places, side="right") - 1
    steps = [int(row) // rows_per_step for row in rows]
    return [step for step in steps if step < plan.num_steps(rows_per_step)]


def print_step(config: RunConfig, *, step: int, num_processes: int, rank: int | None) -> None:
    """Print the samples of a step with the records they were made of, as a table on stdout."""
    shard_sets, _, data = planned(config, num_processes=num_processes)
    tables = [shard_set.index(config.data.split) for shard_set in shard_sets]
    first_of_set = np.cumsum([0, *(table.num_rows for table in tables)])
    shown = Table("rank", "micro-batch", "row", "sample", "record", "file")
    places = samples_of_step(data.loader, config, step=step, num_processes=num_processes)
    for place in places:
        if rank is not None and place.rank != rank:
            continue
        of = int(np.searchsorted(first_of_set, place.number, side="right")) - 1
        row = tables[of].slice(place.number - int(first_of_set[of]), 1).to_pylist()[0]
        sample = shard_sets[of].read_sample(row)
        for record in sample.records:
            where = (str(place.rank), str(place.micro_batch), str(place.row), place.key)
            shown.add_row(*where, record.record_id, record.file)
    Console(file=sys.stdout).print(shown)


def print_sample(config: RunConfig, *, key: str) -> None:
    """Print the steps that read a sample, one per line on stdout."""
    _, _, data = planned(config, num_processes=1)
    for step in steps_of_sample(data.loader, config, key=key):
        sys.stdout.write(f"{step}\n")
