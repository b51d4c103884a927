"""The epoch plan: which samples, in which order, packed into which rows. Pure integer arithmetic.

In: the index of a split and the arguments. Out: an ordered list of rows, each a few samples, named
by a digest. Equal arguments give equal plans on any machine. Rows per step, world size and
micro-batch are views of the list, never part of it, so a resumed run may change them.

How the order comes about:

1. Shards are ordered by keyed hash and dealt to `lanes` in turn.
2. Each lane is cut into windows of `shuffle_window_shards` shards; the samples of a window are
   ordered by keyed hash and packed; the rows of a window are ordered by keyed hash.
3. Position i of the epoch draws from lane i mod `lanes`; a lane that has run dry is skipped.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from vchat.shards.ordering import Hashes, key_hashes, keyed, sorted_within
from vchat.shards.packing import pack
from vchat.shards.plan_index import PlanIndex

Ints = NDArray[np.int64]

PLAN_VERSION = 1

# What a keyed hash is used for.
_SHARDS, _SAMPLES, _ROWS = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArguments:
    """Everything but the index that a plan depends on. Changing one changes the digest."""

    split: str
    seed: int
    epoch: int
    """From 0. Each epoch has its own order and its own packing."""

    tokens_per_row: int
    """Positions in a row: text, image slots and padding. Memory grows with it."""

    images_per_row: int
    """The most images a row may hold."""

    positions_per_image: int
    shuffle_window_shards: int
    """Shards whose samples mix, per lane. More: a better shuffle, more open shards."""

    lanes: int = 1
    """Independent streams of shards; about the number of ranks times readers."""

    on_too_long: Literal["error", "exclude"] = "error"
    """What to do with a sample that no row can hold; excluded ones are listed in the plan."""

    tail: Literal["pad", "drop"] = "pad"
    """`pad` fills the last step with zero-weight rows, `drop` leaves its rows out."""

    positions_per_sample: int | None = None
    """The decoder's longest sequence, if it is shorter than a row."""

    plan_version: int = PLAN_VERSION

    def __post_init__(self) -> None:
        positive = ("tokens_per_row", "positions_per_image", "shuffle_window_shards", "lanes")
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("images_per_row", "epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, choices in (("on_too_long", ("error", "exclude")), ("tail", ("pad", "drop"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.plan_version != PLAN_VERSION:
            raise ValueError(
                f"plan_version {self.plan_version} is not known; this code makes {PLAN_VERSION}"
            )


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """R packed rows in order. Row r is at position r of the epoch."""

    digest: str
    """SHA-256 of the arguments, the index digest and the rows."""

    arguments: PlanArguments
    index: PlanIndex
    row_offsets: Ints
    """int64[R + 1]; the samples of row r are `samples[row_offsets[r]:row_offsets[r + 1]]`."""

    samples: Ints
    """Sample numbers, row after row."""

    excluded: Ints
    """Samples left out because no row can hold them, in index order."""

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    @cached_property
    def positions_per_row(self) -> Ints:
        """int64[R], padding not counted."""
        return self.per_row(sample_positions(self.index, self.arguments))

    @cached_property
    def supervised_per_row(self) -> Ints:
        """int64[R], supervised tokens."""
        return self.per_row(self.index.supervised_tokens)

    @cached_property
    def images_per_row(self) -> Ints:
        """int64[R]."""
        return self.per_row(self.index.num_images)

    def per_row(self, per_sample: NDArray[np.integer]) -> Ints:
        """Return int64[R], the sum over each row of a value per sample."""
        if self.num_rows == 0:
            return np.zeros(0, np.int64)
        values = per_sample[self.samples].astype(np.int64)
        return np.add.reduceat(values, self.row_offsets[:-1])

    def row(self, number: int) -> Ints:
        """Return the sample numbers of one row."""
        return self.samples[self.row_offsets[number] : self.row_offsets[number + 1]]

    def num_steps(self, rows_per_step: int) -> int:
        """Return the optimizer steps in this epoch; the tail counts as one unless it is dropped."""
        if self.arguments.tail == "drop":
            return self.num_rows // rows_per_step
        return math.ceil(self.num_rows / rows_per_step)

    def rows_of_step(self, position: int, *, rows_per_step: int) -> range:
        """Return the rows of the step that starts at a position; empty at the end of the epoch."""
        stop = min(position + rows_per_step, self.num_rows)
        if self.arguments.tail == "drop" and stop < position + rows_per_step:
            stop = position
        return range(position, stop)

    def supervised_of_step(self, step: int, rows_per_step: int) -> int:
        """Return the supervised tokens in the rows of a step: what its loss is divided by."""
        rows = self.rows_of_step(step * rows_per_step, rows_per_step=rows_per_step)
        return int(self.supervised_per_row[rows.start : rows.stop].sum())

    def dropped_keys(self, rows_per_step: int) -> list[str]:
        """Return the keys of the samples that `tail = "drop"` leaves out."""
        delivered = self.num_steps(rows_per_step) * rows_per_step
        first = self.row_offsets[min(delivered, self.num_rows)]
        return [self.index.keys[number] for number in self.samples[first:]]


def plan_epoch(index: PlanIndex, arguments: PlanArguments) -> EpochPlan:
    """Return the plan of one epoch: a pure function, named by its digest.

    Every sample of the index is in exactly one row, unless no row can hold it.

    Raises:
        ValueError: a sample fits no row and `on_too_long` is "error"; names the first of them.
    """
    positions = sample_positions(index, arguments)
    chosen, excluded = fitting_samples(index, arguments, positions=positions)
    hashes = key_hashes(index.keys)
    lane, window = places_of_shards(index, arguments)
    num_windows = int(window.max(initial=0)) + 1
    group = (lane * num_windows + window)[index.shard[chosen]]
    sort_keys = keyed(hashes[chosen], seed=arguments.seed, epoch=arguments.epoch, purpose=_SAMPLES)
    by_group = sorted_within(group, sort_keys)
    row_offsets, samples = packed_groups(
        chosen[by_group],
        group[by_group],
        positions=positions,
        num_images=index.num_images,
        arguments=arguments,
    )
    first = samples[row_offsets[:-1]]
    row_group = (lane * num_windows + window)[index.shard[first]]
    rows = interleaved(row_group, hashes[first], num_windows=num_windows, arguments=arguments)
    row_offsets, samples = reordered(row_offsets, samples, rows=rows)
    return EpochPlan(
        digest=digest_of(index.digest, arguments, row_offsets=row_offsets, samples=samples),
        arguments=arguments,
        index=index,
        row_offsets=row_offsets,
        samples=samples,
        excluded=excluded,
    )


def sample_positions(index: PlanIndex, arguments: PlanArguments) -> Ints:
    """Return int64[N]: positions each sample takes in a row, text and image slots together."""
    per_image = arguments.positions_per_image
    return index.text_tokens + index.image_positions(per_image=per_image)


def fitting_samples(
    index: PlanIndex, arguments: PlanArguments, *, positions: Ints
) -> tuple[Ints, Ints]:
    """Return the numbers of the samples that a row can hold, and of those that none can."""
    longest = min(
        arguments.tokens_per_row, arguments.positions_per_sample or arguments.tokens_per_row
    )
    too_long = (positions > longest) | (index.num_images > arguments.images_per_row)
    excluded = np.flatnonzero(too_long)
    if len(excluded) and arguments.on_too_long == "error":
        first = excluded[0]
        raise ValueError(
            f"{len(excluded)} of {len(index)} samples fit no row of {longest} positions and "
            f"{arguments.images_per_row} images; the first is {index.keys[first]} with "
            f"{positions[first]} positions and {index.num_images[first]} images "
            '(on_too_long = "exclude" leaves them out and lists them)'
        )
    return np.flatnonzero(~too_long), excluded


def places_of_shards(index: PlanIndex, arguments: PlanArguments) -> tuple[Ints, Ints]:
    """Return the lane and the window within its lane of each shard, int64[shards] both."""
    num_shards = int(index.shard.max(initial=0)) + 1
    numbers = np.arange(num_shards, dtype=np.uint64)
    sort_keys = keyed(numbers, seed=arguments.seed, epoch=arguments.epoch, purpose=_SHARDS)
    place = np.empty(num_shards, np.int64)
    place[np.argsort(sort_keys, kind="stable")] = np.arange(num_shards)
    turn, lane = np.divmod(place, arguments.lanes)
    return lane, turn // arguments.shuffle_window_shards


def packed_groups(
    samples: Ints,
    group: Ints,
    *,
    positions: Ints,
    num_images: NDArray[np.int32],
    arguments: PlanArguments,
) -> tuple[Ints, Ints]:
    """Pack each group by itself; return the row offsets and the sample numbers of all rows.

    Args:
        samples: sample numbers, group after group.
        group: the group of each of them, ascending.
        positions, num_images: of all samples of the index.
    """
    group_starts = np.flatnonzero(np.diff(group)) + 1
    offsets, packed = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
    for members in np.split(samples, group_starts):
        row_offsets, order = pack(
            positions[members],
            num_images[members].astype(np.int64),
            tokens_per_row=arguments.tokens_per_row,
            images_per_row=arguments.images_per_row,
        )
        offsets.append(offsets[-1][-1] + row_offsets[1:])
        packed.append(members[order])
    return np.concatenate(offsets), np.concatenate(packed)


def interleaved(
    row_group: Ints, hashes: Hashes, *, num_windows: int, arguments: PlanArguments
) -> Ints:
    """Return the order of the rows in the epoch, int64[R].

    Within a lane, windows follow each other and the rows of a window are shuffled; then one row
    from each lane in turn.

    Args:
        row_group: lane * num_windows + window of each row.
        hashes: a distinct number per row.
    """
    sort_keys = keyed(hashes, seed=arguments.seed, epoch=arguments.epoch, purpose=_ROWS)
    by_lane = sorted_within(row_group, sort_keys)
    lane = row_group[by_lane] // num_windows
    lane_starts = np.searchsorted(lane, np.arange(arguments.lanes))
    turn = np.arange(len(lane)) - lane_starts[lane]
    return by_lane[np.lexsort((lane, turn))]


def reordered(row_offsets: Ints, samples: Ints, *, rows: Ints) -> tuple[Ints, Ints]:
    """Return row offsets and samples with the rows in another order."""
    sizes = np.diff(row_offsets)[rows]
    new_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    within = np.arange(len(samples)) - np.repeat(new_offsets[:-1], sizes)
    return new_offsets, samples[np.repeat(row_offsets[rows], sizes) + within]


def digest_of(
    index_digest: str, arguments: PlanArguments, *, row_offsets: Ints, samples: Ints
) -> str:
    """Return the name of a plan: 64 hexadecimal digits over its arguments and its rows."""
    described = json.dumps({"index": index_digest, **asdict(arguments)}, sort_keys=True)
    digest = hashlib.sha256(described.encode())
    for rows in (row_offsets, samples):
        digest.update(rows.astype("<i8").data)
    return digest.hexdigest()


def dealt(
    rows: range, *, rows_per_step: int, rows_per_micro_batch: int, rank: int, world_size: int
) -> list[list[int | None]]:
    """Return the rows of one step that a rank reads, micro-batch by micro-batch.

    The row at position p goes to rank p mod `world_size`. All ranks get equally many places, in
    every step; a place without a row is None, a zero-weight row.

    Args:
        rows: positions of the step in the epoch, at most `rows_per_step`.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    num_micro_batches = math.ceil(rows_per_step / (world_size * rows_per_micro_batch))
    places: list[int | None] = [row for row in rows if row % world_size == rank]
    places += [None] * (num_micro_batches * rows_per_micro_batch - len(places))
    return [
        places[start : start + rows_per_micro_batch]
        for start in range(0, len(places), rows_per_micro_batch)
    ]
