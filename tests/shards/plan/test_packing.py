"""Packing loses nothing, keeps both budgets, and fills rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.shards.plan.packing import Ints, pack


@st.composite
def samples_and_budgets(draw: st.DrawFn) -> tuple[Ints, Ints, int, int]:
    tokens_per_row = draw(st.integers(1, 5000))
    images_per_row = draw(st.integers(0, 9))
    num_samples = draw(st.integers(0, 60))
    lengths = draw(
        st.lists(st.integers(1, tokens_per_row), min_size=num_samples, max_size=num_samples)
    )
    images = draw(
        st.lists(st.integers(0, images_per_row), min_size=num_samples, max_size=num_samples)
    )
    return np.array(lengths, np.int64), np.array(images, np.int64), tokens_per_row, images_per_row


@settings(max_examples=300)
@given(samples_and_budgets())
def test_every_sample_is_in_one_row_and_no_row_is_over_a_budget(
    case: tuple[Ints, Ints, int, int],
) -> None:
    lengths, images, tokens_per_row, images_per_row = case
    offsets, order = pack(
        lengths, images, tokens_per_row=tokens_per_row, images_per_row=images_per_row
    )
    assert sorted(order) == list(range(len(lengths)))
    assert offsets[0] == 0
    assert offsets[-1] == len(order)
    rows = [order[start:end] for start, end in itertools.pairwise(offsets)]
    for row in rows:
        assert len(row) >= 1
        assert lengths[row].sum() <= tokens_per_row
        assert images[row].sum() <= images_per_row


def test_samples_of_one_length_keep_their_order() -> None:
    _, order = pack(np.full(10, 7), np.zeros(10, np.int64), tokens_per_row=20, images_per_row=0)
    assert order.tolist() == list(range(10))


def test_two_halves_share_a_row_and_the_image_budget_parts_them() -> None:
    halves, images = np.full(4, 50), np.full(4, 2)
    together, _ = pack(halves, images, tokens_per_row=100, images_per_row=4)
    apart, _ = pack(halves, images, tokens_per_row=100, images_per_row=3)
    assert together.tolist() == [0, 2, 4]
    assert apart.tolist() == [0, 1, 2, 3, 4]


def mixed_dialogues(num_samples: int) -> tuple[Ints, Ints]:
    """1 to 8 images of 257 positions, and about 140 text tokens for each."""
    rng = np.random.default_rng(0)
    images = rng.choice([1, 2, 3, 4, 8], p=[0.45, 0.3, 0.15, 0.08, 0.02], size=num_samples)
    text = (rng.lognormal(4.9, 0.6, size=num_samples) * images + 60).astype(np.int64)
    return np.minimum(text + 257 * images, 4096), images


def test_rows_of_mixed_dialogues_are_98_percent_full() -> None:
    lengths, images = mixed_dialogues(20_000)
    offsets, _ = pack(lengths, images, tokens_per_row=4096, images_per_row=16)
    assert lengths.sum() / (4096 * (len(offsets) - 1)) > 0.98


def test_many_images_of_few_positions_are_packed() -> None:
    lengths, images = np.array([9, 1000, 5]), np.array([9, 0, 5])
    offsets, order = pack(lengths, images, tokens_per_row=1000, images_per_row=9)
    assert offsets.tolist() == [0, 1, 2, 3]
    assert sorted(order.tolist()) == [0, 1, 2]


def test_a_sample_over_a_budget_is_refused() -> None:
    with pytest.raises(
        ValueError, match="1 to 8 positions, at most 2 images, got 3 to 9 positions"
    ):
        pack(np.array([3, 9]), np.array([0, 0]), tokens_per_row=8, images_per_row=2)
    with pytest.raises(ValueError, match="at most 3 images"):
        pack(np.array([3, 8]), np.array([0, 3]), tokens_per_row=8, images_per_row=2)
