"""The epoch plan: which samples, in which order, packed into which rows. Pure integer arithmetic.

In: the index of a split and the arguments. Out: an ordered list of rows, each a few samples, named
by a digest. Equal arguments give equal plans on any machine. Rows per step, world size and
micro-batch are views of the list, never part of it, so a resumed run may change them.

How the order of samples is decided:

1. `deal_shards` sorts shards by keyed hash and deals them to `lanes` in turn (`row_order.py`).
2. `select_samples` decides what the epoch draws (`selection.py`).
3. `pack_windows` cuts each lane into windows of `shuffle_window_shards` shards, sorts the draws of
   a window by keyed hash and packs them into rows (`window_packing.py`, `packing.py`).
4. `interleave_rows` sorts the rows of a window by keyed hash and takes row i of the epoch from lane
   i mod `lanes`, without lanes that are empty (`row_order.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.row_order import interleave_rows
from vchat.shards.plan.selection import select_samples
from vchat.shards.plan.window_packing import PackedRows, SampleNumbers, pack_windows

Ints = NDArray[np.int64]

ROWS_PER_CHUNK = 1 << 20
"""How many rows to move at a time, so that temporary arrays are small beside all rows."""


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """R packed rows in the order of the epoch."""

    digest: str
    """SHA-256 of the arguments, the index digest and the rows."""

    arguments: PlanArguments
    index: PlanIndex
    row_offsets: Ints
    """int64[R + 1]; the samples of row r are `samples[row_offsets[r]:row_offsets[r + 1]]`."""

    samples: SampleNumbers
    """Sample numbers, row after row."""

    excluded: Ints
    """Samples left out because no row can hold them, in index order."""

    num_tombstones: int
    """Samples left out because `exclude` names them."""

    @property
    def num_rows(self) -> int:
        """Packed rows of the epoch."""
        return len(self.row_offsets) - 1

    @cached_property
    def positions_per_row(self) -> Ints:
        """int64[R], padding not counted."""
        return self.per_row(sample_positions(self.index, self.arguments))

    @cached_property
    def num_supervised_per_row(self) -> Ints:
        """int64[R], supervised tokens."""
        return self.per_row(self.index.supervised_tokens)

    @cached_property
    def images_per_row(self) -> Ints:
        """int64[R]."""
        return self.per_row(self.index.num_images)

    def per_row(self, per_sample: NDArray[np.integer]) -> Ints:
        """Return int64[R], the sum over each row of a value per sample."""
        return sum_rows(per_sample[self.samples], self.row_offsets)

    def row(self, number: int) -> SampleNumbers:
        """Return the sample numbers of one row."""
        return self.samples[self.row_offsets[number] : self.row_offsets[number + 1]]

    def num_steps(self, rows_per_step: int) -> int:
        """Return the number of optimizer steps; an incomplete last one counts unless dropped."""
        if self.arguments.tail == "drop":
            return self.num_rows // rows_per_step
        return math.ceil(self.num_rows / rows_per_step)

    def rows_of_step(self, first_row: int, *, rows_per_step: int) -> range:
        """Return the rows of the step that starts with a row; empty at the end of the epoch."""
        stop = min(first_row + rows_per_step, self.num_rows)
        if self.arguments.tail == "drop" and stop < first_row + rows_per_step:
            stop = first_row
        return range(first_row, stop)

    def count_supervised_of_step(self, step: int, rows_per_step: int) -> int:
        """Return the number of supervised tokens in a step: what its loss is divided by."""
        return self.count_supervised(
            self.rows_of_step(step * rows_per_step, rows_per_step=rows_per_step)
        )

    def count_supervised(self, rows: range) -> int:
        """Return the number of supervised tokens in successive rows."""
        first, end = self.row_offsets[rows.start], self.row_offsets[rows.stop]
        return int(self.index.supervised_tokens[self.samples[first:end]].sum(dtype=np.int64))

    def list_dropped_keys(self, rows_per_step: int) -> list[str]:
        """Return the keys of the samples that `tail = "drop"` leaves out."""
        delivered = self.num_steps(rows_per_step) * rows_per_step
        first = self.row_offsets[min(delivered, self.num_rows)]
        return [self.index.keys[number] for number in self.samples[first:]]


def plan_epoch(index: PlanIndex, arguments: PlanArguments) -> EpochPlan:
    """Return the plan of one epoch: a pure function, named by its digest.

    The rows hold every sample as often as the mix says; without a mix, once.

    Raises:
        ValueError: a sample fits no row and `on_too_long` is "error", or the mix names a source
            that does not exist.
    """
    positions = sample_positions(index, arguments)
    selection = select_samples(index, arguments, positions=positions)
    packed = pack_windows(selection, index, arguments, positions=positions)
    excluded, num_tombstones = selection.excluded, selection.num_tombstones
    del positions, selection  # as long as the index, and no longer needed
    rows = interleave_rows(
        packed.lane, packed.window, hashes=packed.hashes, cost=packed.cost, arguments=arguments
    )
    row_offsets, samples = reorder_rows(packed, rows=rows)
    return EpochPlan(
        digest=plan_digest(index, arguments, row_offsets=row_offsets, samples=samples),
        arguments=arguments,
        index=index,
        row_offsets=row_offsets,
        samples=samples,
        excluded=excluded,
        num_tombstones=num_tombstones,
    )


def sample_positions(index: PlanIndex, arguments: PlanArguments) -> NDArray[np.int32]:
    """Return int32[N]: positions each sample takes in a row, text and image slots together."""
    return index.text_tokens + index.image_positions(arguments.grid)


def sum_rows(values: NDArray[np.integer], row_offsets: Ints) -> Ints:
    """Return int64[R], the sum of the values of each row."""
    if len(row_offsets) == 1:
        return np.zeros(0, np.int64)
    return np.add.reduceat(values.astype(np.int64), row_offsets[:-1])


def reorder_rows(packed: PackedRows, *, rows: Ints) -> tuple[Ints, SampleNumbers]:
    """Return row offsets and samples with the rows in another order."""
    sizes = np.diff(packed.row_offsets)[rows]
    offsets = offsets_from_counts(sizes)
    samples = np.empty_like(packed.samples)
    for start in range(0, len(rows), ROWS_PER_CHUNK):
        part = slice(start, start + ROWS_PER_CHUNK)
        first, ends = offsets[start], offsets[1:][part]
        moved_by = packed.row_offsets[rows[part]] - (ends - sizes[part])
        old = np.arange(first, ends[-1]) + np.repeat(moved_by, sizes[part])
        samples[first : ends[-1]] = packed.samples[old]
    return offsets, samples


def plan_digest(
    index: PlanIndex,
    arguments: PlanArguments,
    *,
    row_offsets: Ints,
    samples: NDArray[np.integer],
) -> str:
    """Return the name of a plan: 64 hexadecimal digits over its arguments and its rows."""
    inputs = json.dumps({"index": index.digest, **arguments.describe()}, sort_keys=True)
    digest = hashlib.sha256(inputs.encode())
    for rows in (row_offsets, samples):
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            digest.update(rows[start : start + ROWS_PER_CHUNK].astype("<i8").data)
    return digest.hexdigest()


def deal_rows(
    rows: range, *, rows_per_step: int, rows_per_micro_batch: int, rank: int, world_size: int
) -> list[list[int | None]]:
    """Return the rows of one step that a rank reads, micro-batch by micro-batch.

    Row r goes to rank r mod `world_size`. All ranks get equally many rows in every step; None is a
    zero-weight row.

    Args:
        rows: of the step, at most `rows_per_step`.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    num_micro_batches = math.ceil(rows_per_step / (world_size * rows_per_micro_batch))
    own_rows: list[int | None] = [row for row in rows if row % world_size == rank]
    own_rows += [None] * (num_micro_batches * rows_per_micro_batch - len(own_rows))
    return [
        own_rows[start : start + rows_per_micro_batch]
        for start in range(0, len(own_rows), rows_per_micro_batch)
    ]
