"""Successive rows cost about the same, and the order is still a shuffle of all rows."""

from __future__ import annotations

import numpy as np
import pytest

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.row_order import Ints, interleave_rows


def arguments(*, lanes: int, balanced_rows: int) -> PlanArguments:
    return PlanArguments(
        split="train",
        seed=5,
        epoch=0,
        tokens_per_row=64,
        images_per_row=16,
        positions_per_image=5,
        shuffle_window_shards=2,
        lanes=lanes,
        balanced_rows=balanced_rows,
    )


def order_of(cost: Ints, *, lanes: int, balanced_rows: int) -> Ints:
    """Rows dealt to lanes in turn, in one window."""
    count = len(cost)
    return interleave_rows(
        np.arange(count) % lanes,
        np.zeros(count, np.int64),
        hashes=np.arange(count, dtype=np.uint64),
        cost=cost,
        arguments=arguments(lanes=lanes, balanced_rows=balanced_rows),
    )


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_successive_rows_cost_about_the_same(lanes: int) -> None:
    cost = np.random.default_rng(0).integers(0, 16, 4096)

    def spread(balanced_rows: int) -> float:
        abreast = cost[order_of(cost, lanes=lanes, balanced_rows=balanced_rows)].reshape(-1, 8)
        return float((abreast.max(axis=1) / abreast.mean(axis=1).clip(1)).mean())

    assert spread(8) < 1.25
    assert spread(1) > 1.6


@pytest.mark.parametrize("balanced_rows", [1, 2, 8, 50])
@pytest.mark.parametrize("count", [0, 1, 100, 513])
def test_every_row_comes_once(count: int, balanced_rows: int) -> None:
    cost = np.random.default_rng(0).integers(0, 16, count)
    order = order_of(cost, lanes=4, balanced_rows=balanced_rows)
    assert sorted(order.tolist()) == list(range(count))
