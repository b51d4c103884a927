"""The order of rows in the epoch: lanes take turns, and successive rows cost about the same."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.ordering import Hashes, make_sort_keys, sort_within_groups
from vchat.shards.plan.plan_index import PlanIndex

Ints = NDArray[np.int64]

_SHARDS, _ROWS, _BLOCKS = 1, 3, 5
"""Purposes of keyed hashes."""

BLOCKS_PER_CHUNK = 64
"""More blocks balance lanes more closely but move rows further (by at most 64 blocks of turns)."""


def deal_shards(index: PlanIndex, arguments: PlanArguments) -> tuple[Ints, Ints]:
    """Return the lane and the window within its lane of each shard, int64[shards] both."""
    num_shards = len(index.set_of_shard)
    numbers = np.arange(num_shards, dtype=np.uint64)
    sort_keys = make_sort_keys(numbers, seed=arguments.seed, epoch=arguments.epoch, purpose=_SHARDS)
    rank = np.empty(num_shards, np.int64)
    rank[np.argsort(sort_keys, kind="stable")] = np.arange(num_shards)
    turn, lane = np.divmod(rank, arguments.lanes)
    return lane, turn // arguments.shuffle_window_shards


def interleave_rows(
    row_lane: NDArray[np.int32],
    row_window: NDArray[np.int32],
    *,
    hashes: Hashes,
    cost: NDArray[np.int32],
    arguments: PlanArguments,
) -> Ints:
    """Return the order of the rows in the epoch, int64[R].

    Each lane has its windows one after the other, the rows of a window shuffled. Lanes take turns:
    row i comes from lane i mod `lanes` until a lane is empty.

    Args:
        hashes: a distinct number per row.
        cost: what successive rows should have equal.
    """
    sort_keys = make_sort_keys(hashes, seed=arguments.seed, epoch=arguments.epoch, purpose=_ROWS)
    num_windows = int(row_window.max(initial=0)) + 1
    order = sort_within_groups(row_lane * np.int64(num_windows) + row_window, sort_keys)
    lane = row_lane[order]
    lane_starts = np.searchsorted(lane, np.arange(arguments.lanes))
    turn = np.arange(len(lane)) - lane_starts[lane]
    if arguments.balanced_rows > 1:
        turn = balance_turns(lane, turn, cost=cost[order], arguments=arguments)
    return order[np.lexsort((lane, turn))]


def balance_turns(
    lane: NDArray[np.int32], turn: Ints, *, cost: NDArray[np.int32], arguments: PlanArguments
) -> Ints:
    """Return new turns such that `balanced_rows` successive rows cost about the same.

    Cuts each lane's rows into chunks, sorts a chunk by cost, cuts it into blocks and shuffles the
    blocks, in the same way in all lanes. So at any turn every lane gives a row of about the same
    rank in its chunk. Works best if one of `balanced_rows` and `lanes` is a multiple of the other.

    Args:
        lane, turn: of each row, sorted by both.
    """
    turns_per_block = math.ceil(arguments.balanced_rows / arguments.lanes)
    turns_per_chunk = turns_per_block * BLOCKS_PER_CHUNK
    chunk = turn // turns_per_chunk
    by_cost = np.lexsort((cost, chunk, lane))
    rank_in_chunk = np.empty(len(turn), np.int64)
    rank_in_chunk[by_cost] = turn % turns_per_chunk
    block = chunk * BLOCKS_PER_CHUNK + rank_in_chunk // turns_per_block
    shuffled = make_sort_keys(
        block.astype(np.uint64), seed=arguments.seed, epoch=arguments.epoch, purpose=_BLOCKS
    )
    order = np.lexsort((rank_in_chunk, shuffled, chunk, lane))
    new_turn = np.empty(len(turn), np.int64)
    new_turn[order] = turn
    return new_turn
