"""The mix draws each source as often as asked, evenly over the epochs; exclusions are exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vchat.shards.plan.arguments import PlanArguments, SourceShare
from vchat.shards.plan.epoch import EpochPlan, plan_epoch
from vchat.shards.plan.ordering import TextColumn
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.summary import summarize_plan


def index_of(sources: list[int], *, sets: tuple[int, ...] = (0,)) -> PlanIndex:
    """Samples of these source numbers, dealt over one shard per set; keys repeat in every set."""
    count = len(sources)
    shard = np.arange(count, dtype=np.int32) % len(sets)
    return PlanIndex(
        digest="0" * 64,
        keys=TextColumn.of(f"toy/{n // len(sets)}" for n in range(count)),
        sources=("llava", "ocr_vqa", "cgd"),
        source=np.array(sources, np.int32),
        text_tokens=np.full(count, 10, np.int32),
        supervised_tokens=np.full(count, 4, np.int32),
        num_images=np.zeros(count, np.int32),
        image_sizes=np.zeros((0, 2), np.int32),
        shard=shard,
        set_of_shard=np.array(sets, np.int32),
    )


def plan(index: PlanIndex, *, epoch: int = 0, **changes: object) -> EpochPlan:
    given = {
        "split": "train",
        "seed": 3,
        "epoch": epoch,
        "tokens_per_row": 40,
        "images_per_row": 4,
        "positions_per_image": 5,
        "shuffle_window_shards": 8,
    }
    return plan_epoch(index, PlanArguments(**(given | changes)))  # type: ignore[arg-type]


weights = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]), st.integers(0, 300).map(lambda n: n / 100)
)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), weights, weights)
def test_after_any_number_of_epochs_draws_differ_by_at_most_one(
    sources: list[int], first: float, second: float
) -> None:
    index = index_of(sources)
    shares = {0: first, 1: second, 2: 1.0}
    named = [("llava", first), ("ocr_vqa", second)]
    present = [pair for pair in named if pair[0] in index.sources]
    mix = tuple(SourceShare(source=source, weight=weight) for source, weight in present)
    drawn: Counter[int] = Counter()
    for epoch in range(4):
        drawn.update(plan(index, epoch=epoch, mix=mix).samples.tolist())
        for source, weight in shares.items():
            counts = [drawn[n] for n in range(len(index)) if sources[n] == source]
            if counts:
                assert max(counts) - min(counts) <= 1
                amount = Fraction(str(weight)) * len(counts) * (epoch + 1)
                assert sum(counts) == amount.numerator // amount.denominator


def test_weight_one_is_the_same_as_no_mix() -> None:
    index = index_of([0, 1, 2] * 20)
    mixed = plan(index, epoch=2, mix=(SourceShare(source="cgd", weight=1.0),))
    plain = plan(index, epoch=2)
    assert mixed.samples.tolist() == plain.samples.tolist()


def test_both_halves_of_a_source_take_turns() -> None:
    index = index_of([0] * 10)
    half = (SourceShare(source="llava", weight=0.5),)
    first, second, third = (set(plan(index, epoch=e, mix=half).samples.tolist()) for e in range(3))
    assert len(first) == len(second) == 5
    assert first | second == set(range(10))
    assert third == first


def test_a_cap_limits_the_draws_of_an_epoch_and_the_next_goes_on() -> None:
    index = index_of([0] * 10 + [1] * 3)
    capped = (SourceShare(source="llava", cap=4),)
    drawn = [plan(index, epoch=e, mix=capped).samples for e in range(3)]
    assert [int((d < 10).sum()) for d in drawn] == [4, 4, 4]
    assert set(np.concatenate(drawn).tolist()) == set(range(13))


def test_draws_of_one_sample_are_not_neighbours() -> None:
    index = index_of([0] * 200)
    order = plan(index, mix=(SourceShare(source="llava", weight=2.0),)).samples
    assert int((order[1:] == order[:-1]).sum()) < 10


def test_the_summary_counts_draws_per_source() -> None:
    index = index_of([0, 0, 1, 2])
    mix = (SourceShare(source="llava", weight=3.0), SourceShare(source="cgd", weight=0.0))
    summary = summarize_plan(plan(index, mix=mix), rows_per_step=1)
    assert summary.sources == {"llava": 6, "ocr_vqa": 1, "cgd": 0}


def test_excluded_keys_are_left_out_and_counted() -> None:
    index = index_of([0] * 12)
    made = plan(index, exclude=("toy/3", "toy/11", "of another split"))
    assert sorted(made.samples.tolist()) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert made.num_tombstones == 2
    long = replace(index, text_tokens=np.where(np.arange(12) == 3, 99, 10).astype(np.int32))
    assert len(plan(long, exclude=("toy/3",)).excluded) == 0


def test_sets_are_weighted_and_equal_keys_are_not_neighbours() -> None:
    index = index_of([0] * 400, sets=(0, 1))
    assert len(plan(index).samples) == 400
    positions = {}
    for index_in_epoch, number in enumerate(plan(index).samples.tolist()):
        positions.setdefault(index.keys[number], []).append(index_in_epoch)
    assert sum(abs(a - b) == 1 for a, b in positions.values()) < 10
    weighted = plan(index, set_weights=(1.0, 0.25)).samples
    counts = Counter((weighted % 2).tolist())
    assert counts == {0: 200, 1: 50}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mix": (SourceShare(source="lava"),)}, "source 'lava', .* did you mean 'llava'"),
        ({"mix": (SourceShare(source="cgd"),) * 2}, "mix names 1 sources more than once"),
        ({"set_weights": (1.0, 2.0)}, "2 set_weights for 1 shard sets"),
        ({"set_weights": (-1.0,)}, "set_weights must be >= 0"),
    ],
)
def test_a_mix_of_unknown_names_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(index_of([0, 1, 2]), **changes)


def test_negative_shares_are_errors() -> None:
    with pytest.raises(ValueError, match="weight of source 'a' must be >= 0, got -1"):
        SourceShare(source="a", weight=-1)
    with pytest.raises(ValueError, match="cap of source 'a' must be >= 0, got -1"):
        SourceShare(source="a", cap=-1)
