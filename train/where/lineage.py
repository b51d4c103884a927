"""Which samples are in a step of a run, and which steps read a sample.

The epoch plan answers, so training records nothing for it: RUN.toml and the shard set are enough,
before, during or after the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vchat.base.progress import show_progress
from vchat.shards.format.sample import Sample
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.epoch import EpochPlan, deal_rows
from vchat.shards.plan.joined_sets import JoinedSets
from vchat.train.logs.log import read_log
from vchat.train.run.data import RunData


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """One sample of a step, and which rank reads it where."""

    step: int
    """Optimizer step, from 1."""

    epoch: int
    row: int
    """Row of the epoch plan."""

    rank: int
    micro_batch: int
    number: int
    """Number of the sample in the index of its split."""

    key: str


def list_step_samples(data: RunData, *, step: int, num_processes: int) -> Iterator[StepSample]:
    """Yield the samples of a step, rank by rank, as that many processes would read them.

    Raises:
        ValueError: if the run has no such step.
    """
    if not 1 <= step <= data.total_steps:
        raise ValueError(f"step {step}: the run has steps 1 to {data.total_steps}")
    rows_per_step = data.rows_per_step
    epoch, step_in_epoch = locate_step(data.loader, step=step, rows_per_step=rows_per_step)
    plan = data.loader.plan(epoch)
    rows = plan.rows_of_step(step_in_epoch * rows_per_step, rows_per_step=rows_per_step)
    for rank in range(num_processes):
        micro_batches = deal_rows(
            rows,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=data.rows_per_micro_batch,
            rank=rank,
            world_size=num_processes,
        )
        for micro_batch, dealt_rows in enumerate(micro_batches):
            for row in dealt_rows:
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


def select_step_samples(
    data: RunData, *, step: int, num_processes: int, rank: int | None, row: int | None
) -> list[StepSample]:
    """Return the samples of a step, of one rank and one row of the epoch only if they are given.

    Raises:
        ValueError: the run has no such step, or the step has no such rank or row.
    """
    samples = list_step_samples(data, step=step, num_processes=num_processes)
    selected = [s for s in samples if rank in (None, s.rank) and row in (None, s.row)]
    if not selected:
        of = "".join(f" {name} {n}" for name, n in (("rank", rank), ("row", row)) if n is not None)
        raise ValueError(f"step {step} has no sample of{of} on {num_processes} processes")
    return selected


def read_num_processes(out: Path, *, step: int) -> int | None:
    """Return how many processes made a step, according to the log; None if it does not say.

    Resumes may change their number. A step between two logged ones belongs to the later one.
    """
    if not (out / "log.jsonl").is_file():
        return None
    later = (line for line in read_log(out / "log.jsonl") if line["step"] >= step)
    return next(later, {}).get("processes")


def locate_step(loader: Loader, *, step: int, rows_per_step: int) -> tuple[int, int]:
    """Return the epoch of a step and its number in it, both from 0."""
    before, epoch = step - 1, 0
    while before >= (steps := loader.plan(epoch).num_steps(rows_per_step)):
        before -= steps
        epoch += 1
    return epoch, before


def find_steps_of_sample(data: RunData, *, number: int) -> list[int]:
    """Return the steps of the run in which the sample of this number is read, ascending."""
    first, epoch = 1, 0
    found: set[int] = set()
    while first <= data.total_steps:
        plan = data.loader.plan(epoch)
        steps = find_steps_in_plan(plan, number=number, rows_per_step=data.rows_per_step)
        found |= {first + step for step in steps}
        first, epoch = first + plan.num_steps(data.rows_per_step), epoch + 1
    return sorted(step for step in found if step <= data.total_steps)


def find_steps_in_plan(plan: EpochPlan, *, number: int, rows_per_step: int) -> list[int]:
    """Return the steps of one epoch, from 0, that hold the sample of that number."""
    places = np.flatnonzero(plan.samples == number)
    rows = np.searchsorted(plan.row_offsets, places, side="right") - 1
    steps = [int(row) // rows_per_step for row in rows]
    return [step for step in steps if step < plan.num_steps(rows_per_step)]


def find_samples(data: RunData, sets: JoinedSets, *, key: str) -> list[int]:
    """Return the numbers of the sample of this key, or of the samples with the record of this key.

    Raises:
        ValueError: neither a sample nor a record of the split has this key.
    """
    keys = data.loader.index.keys
    numbers = [i for i in range(len(keys)) if keys[i] == key] or find_by_record(sets, key)
    if not numbers:
        raise ValueError(f"{key}: no sample or record of split {data.split} has this key")
    return numbers


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
