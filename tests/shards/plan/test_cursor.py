"""A thread makes the plan of the next epoch, the same plan that a fresh start makes."""

from __future__ import annotations

import itertools
import pickle
import threading
from dataclasses import replace

import pytest

from vchat.shards.plan import cursor as plan_cursor
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.cursor import PlanCursor
from vchat.shards.plan.epoch import EpochPlan, plan_epoch
from vchat.shards.plan.plan_index import PlanIndex
from vchat_testing.toy_plans import arguments, regular_index


def cursor() -> PlanCursor:
    return PlanCursor(
        regular_index(),
        arguments(),
        rows_per_step=4,
        rows_per_micro_batch=2,
        rank=0,
        world_size=1,
        plan_folder=None,
    )


def test_the_next_plan_is_made_by_a_thread_in_the_second_half_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[int, str]] = []
    is_there = threading.Event()

    def noting(index: PlanIndex, wanted: PlanArguments) -> EpochPlan:
        made.append((wanted.epoch, threading.current_thread().name))
        if wanted.epoch == 1:
            is_there.set()
        return plan_epoch(index, wanted)

    monkeypatch.setattr(plan_cursor, "plan_epoch", noting)
    here = cursor()
    batches = here.batches_from(epoch=0, first_row=0)
    half = here.plan(0).num_rows // 2
    first_half = list(itertools.takewhile(lambda batch: batch.step_rows.stop <= half, batches))
    assert first_half
    assert is_there.wait(10), "nobody has asked for epoch 1"
    assert dict(made)[1] != threading.current_thread().name
    first_of_next = next(batch for batch in batches if batch.epoch == 1)
    assert first_of_next.plan.digest == plan_epoch(here.index, arguments(epoch=1)).digest
    assert [epoch for epoch, _ in made] == [0, 1]


def test_an_error_in_the_next_plan_is_raised_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(index: PlanIndex, wanted: PlanArguments) -> EpochPlan:
        if wanted.epoch == 1:
            raise ValueError("no such plan")
        return plan_epoch(index, wanted)

    monkeypatch.setattr(plan_cursor, "plan_epoch", failing)
    here = cursor()
    batches = here.batches_from(epoch=0, first_row=0)
    until_the_end = itertools.islice(batches, here.plan(0).num_steps(4) * 2)
    assert [batch.step_rows.stop for batch in until_the_end][-1] == here.plan(0).num_rows
    with pytest.raises(ValueError, match="no such plan"):
        next(batches)


def test_a_pending_plan_is_not_pickled_with_the_cursor() -> None:
    here = cursor()
    batches = here.batches_from(epoch=0, first_row=here.plan(0).num_rows // 8 * 4)
    next(batches), next(batches)
    there = pickle.loads(pickle.dumps(here))  # noqa: S301
    assert there.plan(1).digest == here.plan(1).digest


def test_changed_arguments_make_another_next_plan() -> None:
    here = cursor()
    batches = here.batches_from(epoch=0, first_row=here.plan(0).num_rows // 8 * 4)
    next(batches), next(batches)
    other = cursor()
    other.arguments = replace(other.arguments, lanes=1)
    other.epoch, other.next_row = 0, 4
    here.check_state(other.state_dict())
    assert here.plan(1).digest == plan_epoch(here.index, arguments(epoch=1, lanes=1)).digest
