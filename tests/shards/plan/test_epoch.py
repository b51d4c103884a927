"""The plan: every sample once, within budgets, the same everywhere, equal work for all ranks."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vchat.shards.pixels.grid import Tiling
from vchat.shards.plan.arguments import PlanArguments, SourceShare
from vchat.shards.plan.epoch import EpochPlan, deal_rows, plan_epoch
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.row_order import deal_shards
from vchat.shards.plan.summary import summarize_plan
from vchat_testing.toy_plans import POSITIONS_PER_IMAGE, arguments, index_of, regular_index

GOLDEN_DIGEST = "3662de58ed52817c55bbf7b2fa37cf12996d99ad35047d8e2afeff0b077e0864"


@st.composite
def indexes(draw: st.DrawFn) -> PlanIndex:
    samples_per_shard = draw(st.lists(st.integers(0, 12), min_size=1, max_size=9))
    shard = [s for s, count in enumerate(samples_per_shard) for _ in range(count)]
    text = draw(st.lists(st.integers(1, 34), min_size=len(shard), max_size=len(shard)))
    images = draw(st.lists(st.integers(0, 6), min_size=len(shard), max_size=len(shard)))
    return index_of(text, images, shard)


@st.composite
def plans(draw: st.DrawFn) -> EpochPlan:
    chosen = arguments(
        seed=draw(st.integers(0, 1 << 40)),
        epoch=draw(st.integers(0, 5)),
        lanes=draw(st.integers(1, 6)),
        balanced_rows=draw(st.sampled_from([1, 1, 4, 7])),
        shuffle_window_shards=draw(st.integers(1, 4)),
        tail=draw(st.sampled_from(["pad", "drop"])),
    )
    return plan_epoch(draw(indexes()), chosen)


def rows(plan: EpochPlan) -> list[list[int]]:
    return [plan.row(number).tolist() for number in range(plan.num_rows)]


@given(plans())
def test_every_sample_is_in_exactly_one_row_within_its_budgets(plan: EpochPlan) -> None:
    assert sorted(itertools.chain(*rows(plan))) == list(range(len(plan.index)))
    text, images = plan.index.text_tokens, plan.index.num_images
    for number, row in enumerate(rows(plan)):
        positions = text[row].sum() + POSITIONS_PER_IMAGE * images[row].sum()
        assert plan.positions_per_row[number] == positions
        assert 1 <= positions <= 64
        assert plan.images_per_row[number] == images[row].sum() <= 6
        assert plan.num_supervised_per_row[number] == plan.index.supervised_tokens[row].sum()


@given(plans())
def test_equal_arguments_give_equal_rows_and_digests(plan: EpochPlan) -> None:
    again = plan_epoch(replace(plan.index), replace(plan.arguments))
    assert rows(again) == rows(plan)
    assert again.digest == plan.digest


def test_the_digest_is_the_golden_one() -> None:
    """The same on every machine and library version; a new order needs a new `plan_version`."""
    assert plan_epoch(regular_index(), arguments()).digest == GOLDEN_DIGEST


def test_every_argument_changes_the_digest() -> None:
    index = regular_index()
    changes: dict[str, object] = {
        "split": "eval",
        "seed": 8,
        "epoch": 1,
        "tokens_per_row": 65,
        "images_per_row": 7,
        "positions_per_image": 6,
        "shuffle_window_shards": 3,
        "lanes": 4,
        "on_too_long": "exclude",
        "tail": "drop",
        "positions_per_sample": 60,
        "balanced_rows": 4,
        "mix": (SourceShare(source="odd", weight=1.0),),
        "set_weights": (1.0,),
        "exclude": ("no such key",),
        "tiling": Tiling(max_tiles=4, side=1000),
    }
    assert {*changes, "plan_version"} == {field.name for field in fields(PlanArguments)}
    digests = [plan_epoch(index, arguments(**{k: v})).digest for k, v in changes.items()]
    digests.append(plan_epoch(index, arguments()).digest)
    digests.append(plan_epoch(replace(index, digest="1" * 64), arguments()).digest)
    assert len(set(digests)) == len(changes) + 2


def test_epochs_differ_in_order_and_in_packing() -> None:
    first, second = (rows(plan_epoch(regular_index(), arguments(epoch=e))) for e in (0, 1))
    assert first != second
    assert {frozenset(row) for row in first} != {frozenset(row) for row in second}


@given(
    plans(),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 100),
)
@settings(max_examples=50)
def test_any_topology_reads_the_same_steps_with_equally_many_rows(
    plan: EpochPlan, world_size: int, rows_per_micro_batch: int, rows_per_step: int
) -> None:
    steps = plan.num_steps(rows_per_step)
    zero_weight = 0
    for step in range(steps):
        wanted = plan.rows_of_step(step * rows_per_step, rows_per_step=rows_per_step)
        given_out = [
            deal_rows(
                wanted,
                rows_per_step=rows_per_step,
                rows_per_micro_batch=rows_per_micro_batch,
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]
        assert len({len(micro_batches) for micro_batches in given_out}) == 1
        dealt = [row for rank in given_out for micro in rank for row in micro]
        assert {len(micro) for rank in given_out for micro in rank} == {rows_per_micro_batch}
        assert sorted(row for row in dealt if row is not None) == list(wanted)
        zero_weight += dealt.count(None)
    summary = summarize_plan(
        plan,
        rows_per_step=rows_per_step,
        rows_per_micro_batch=rows_per_micro_batch,
        world_size=world_size,
    )
    assert summary.zero_weight_rows == zero_weight


@given(plans(), st.integers(1, 20))
def test_steps_cover_the_list_and_a_dropped_tail_is_listed(
    plan: EpochPlan, rows_per_step: int
) -> None:
    steps = [
        plan.rows_of_step(step * rows_per_step, rows_per_step=rows_per_step)
        for step in range(plan.num_steps(rows_per_step))
    ]
    delivered = [row for step in steps for row in step]
    assert delivered == list(range(len(delivered)))
    assert not plan.rows_of_step(len(steps) * rows_per_step, rows_per_step=rows_per_step)
    for number, step in enumerate(steps):
        wanted = sum(plan.index.supervised_tokens[plan.row(row)].sum() for row in step)
        assert plan.count_supervised_of_step(number, rows_per_step) == wanted
    dropped = [plan.index.keys[n] for row in rows(plan)[len(delivered) :] for n in row]
    assert plan.list_dropped_keys(rows_per_step) == dropped
    if plan.arguments.tail == "pad":
        assert not dropped
    else:
        assert all(len(step) == rows_per_step for step in steps)


@given(plans())
def test_row_i_comes_from_lane_i_until_a_lane_is_empty(plan: EpochPlan) -> None:
    lane_of_shard, window_of_shard = deal_shards(plan.index, plan.arguments)
    shards = [plan.index.shard[row] for row in rows(plan)]
    lanes = [set(lane_of_shard[shard].tolist()) for shard in shards]
    windows = [set(window_of_shard[shard].tolist()) for shard in shards]
    assert all(len(lane) == 1 for lane in lanes)
    assert all(len(window) == 1 for window in windows)
    drawn = [lane.pop() for lane in lanes]
    left = {lane: drawn.count(lane) for lane in range(plan.arguments.lanes)}
    turn: list[int] = []
    for lane in drawn:
        turn = turn or [lane for lane in left if left[lane]]
        assert lane == turn.pop(0)
        left[lane] -= 1
    for lane in range(plan.arguments.lanes):
        order = [
            min(of) for of, drawn_from in zip(windows, drawn, strict=True) if drawn_from == lane
        ]
        assert plan.arguments.balanced_rows > 1 or order == sorted(order)


def test_a_rank_owns_whole_lanes_if_the_world_divides_them() -> None:
    index = regular_index(400, samples_per_shard=10)
    plan = plan_epoch(index, arguments(lanes=4))
    lane_of_shard, _ = deal_shards(index, plan.arguments)
    full_turns = range(0, 4 * (plan.num_rows // 4) - 40)
    for rank in (0, 1):
        mine = deal_rows(
            full_turns, rows_per_step=1000, rows_per_micro_batch=1, rank=rank, world_size=2
        )
        read = [plan.row(row) for [row] in mine if row is not None]
        assert {int(lane_of_shard[index.shard[row[0]]]) % 2 for row in read} == {rank}


def test_a_sample_that_fits_no_row_is_an_error_that_names_it() -> None:
    index = index_of([10, 100, 10, 10], [0, 0, 7, 1], [0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"2 of 4 samples fit no row .* toy/1 with 100 positions"):
        plan_epoch(index, arguments())
    with pytest.raises(ValueError, match="row of 12 positions"):
        plan_epoch(index, arguments(positions_per_sample=12))


def test_excluded_samples_are_listed_and_the_rest_is_planned() -> None:
    index = index_of([10, 100, 10, 10], [0, 0, 7, 1], [0, 0, 0, 0])
    plan = plan_epoch(index, arguments(on_too_long="exclude"))
    assert plan.excluded.tolist() == [1, 2]
    assert sorted(itertools.chain(*rows(plan))) == [0, 3]


def test_an_epoch_without_samples_has_no_steps() -> None:
    plan = plan_epoch(index_of([], [], []), arguments())
    assert (plan.num_rows, plan.num_steps(4)) == (0, 0)
    assert summarize_plan(plan, rows_per_step=4).padding == 0


def test_shuffling_over_all_shards_is_close_to_uniform() -> None:
    index = regular_index(3000, samples_per_shard=100)
    wide = summarize_plan(
        plan_epoch(index, arguments(shuffle_window_shards=30, lanes=1)), rows_per_step=8
    )
    narrow = summarize_plan(
        plan_epoch(index, arguments(shuffle_window_shards=1, lanes=1)), rows_per_step=8
    )
    assert wide.displacement == pytest.approx(1 / 3, abs=0.02)
    assert wide.shards_per_step > 10
    assert narrow.shards_per_step < 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tokens_per_row": 0}, "tokens_per_row must be at least 1, got 0"),
        ({"lanes": -1}, "lanes must be at least 1, got -1"),
        ({"epoch": -1}, "epoch must not be negative, got -1"),
        ({"tail": "keep"}, "tail must be one of .*, got 'keep'"),
        ({"plan_version": 2}, "plan_version 2 is not known"),
    ],
)
def test_arguments_out_of_range_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arguments(**changes)
