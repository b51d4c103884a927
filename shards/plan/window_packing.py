"""Shuffle the draws of each window of shards and pack them into rows, one window after the other.

Samples of different windows never share a row: memory beyond the result is that of one window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vchat.base.arrays import offsets_from_counts
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.ordering import Hashes, make_sort_keys, mix64
from vchat.shards.plan.packing import pack
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.row_order import deal_shards
from vchat.shards.plan.selection import Selection, sample_hashes

Ints = NDArray[np.int64]
SampleNumbers = NDArray[np.int32]

_SAMPLES = 2
"""Purpose of the keyed hash that shuffles the samples of a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """R rows of all windows, window after window."""

    row_offsets: Ints
    """int64[R + 1]; the samples of row r are `samples[row_offsets[r]:row_offsets[r + 1]]`."""

    samples: SampleNumbers
    lane: NDArray[np.int32]
    """int32[R], like the three below."""

    window: NDArray[np.int32]
    hashes: Hashes
    """uint64[R], different for every row."""

    cost: NDArray[np.int32]
    """int32[R], images."""


def pack_windows(
    selection: Selection,
    index: PlanIndex,
    arguments: PlanArguments,
    *,
    positions: NDArray[np.int32],
) -> PackedRows:
    """Shuffle and pack the draws of every window.

    Args:
        positions: of all samples of the index.
    """
    lane, window = deal_shards(index, arguments)
    selection, starts = sort_by_shard(selection, index)
    inputs = index.image_inputs(arguments.grid)
    samples = np.empty(len(selection.samples), np.int32)
    sizes, hashes, costs = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], []
    lanes, windows = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    end = 0
    for shards in shards_by_window(lane, window):
        draws, draw_hashes = shuffle_draws(
            selection, index, arguments, shards=shards, starts=starts
        )
        if len(draws) == 0:
            continue
        images = inputs[draws]
        row_offsets, order = pack(
            positions[draws].astype(np.int64),
            images.astype(np.int64),
            tokens_per_row=arguments.tokens_per_row,
            images_per_row=arguments.images_per_row,
        )
        samples[end : end + len(draws)] = draws[order]
        end += len(draws)
        sizes.append(np.diff(row_offsets))
        hashes.append(draw_hashes[order[row_offsets[:-1]]])
        costs.append(np.add.reduceat(images[order], row_offsets[:-1]).astype(np.int32))
        lanes.append(np.full(len(sizes[-1]), lane[shards[0]], np.int32))
        windows.append(np.full(len(sizes[-1]), window[shards[0]], np.int32))
    return PackedRows(
        row_offsets=offsets_from_counts(np.concatenate(sizes)),
        samples=samples,
        lane=np.concatenate(lanes),
        window=np.concatenate(windows),
        hashes=np.concatenate(hashes),
        cost=np.concatenate([np.zeros(0, np.int32), *costs]),
    )


def sort_by_shard(selection: Selection, index: PlanIndex) -> tuple[Selection, Ints]:
    """Return the draws shard after shard, and the first draw of each shard, int64[shards + 1]."""
    shard = index.shard[selection.samples]
    if (shard[1:] < shard[:-1]).any():
        order = np.argsort(shard, kind="stable")
        selection, shard = selection.reorder(order), shard[order]
    return selection, np.searchsorted(shard, np.arange(len(index.set_of_shard) + 1))


def shards_by_window(lane: Ints, window: Ints) -> Iterator[Ints]:
    """Yield the shards of each window of each lane, ascending."""
    order = np.lexsort((window, lane))
    changes = np.flatnonzero(np.diff(lane[order]) | np.diff(window[order])) + 1
    for start, end in itertools.pairwise([0, *changes.tolist(), len(order)]):
        if end > start:
            yield order[start:end]


def shuffle_draws(
    selection: Selection,
    index: PlanIndex,
    arguments: PlanArguments,
    *,
    shards: Ints,
    starts: Ints,
) -> tuple[SampleNumbers, Hashes]:
    """Return the draws from some shards in shuffled order, and the hash of each draw.

    Args:
        shards: a few, ascending.
        starts: first draw of each shard, from `sort_by_shard`.
    """
    parts = [slice(int(starts[shard]), int(starts[shard + 1])) for shard in shards]
    samples = np.concatenate([selection.samples[part] for part in parts])
    hashes = np.concatenate([sample_hashes(index, selection.samples[part]) for part in parts])
    if selection.cycles is not None:
        cycles = np.concatenate([selection.cycles[part] for part in parts])
        hashes ^= np.where(cycles > 0, mix64(cycles), np.uint64(0))
    sort_keys = make_sort_keys(hashes, seed=arguments.seed, epoch=arguments.epoch, purpose=_SAMPLES)
    order = np.argsort(sort_keys, kind="stable")
    return samples[order], hashes[order]
