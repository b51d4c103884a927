"""Where a reader stands in the epochs of a plan: the plans, what one rank reads next, and a state.

A state is the arguments of the plans, the digest of the current one, its epoch, and a position in
rows of completed steps. It holds no rank, world size or micro-batch, so any of them may change.

While the second half of an epoch is read, a thread makes the plan of the next one, so that its
first batch does not wait for it. A plan is a pure function: who makes it, and when, changes
nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import EpochPlan, deal_rows, plan_epoch
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.saved_plans import load_or_make_plan

MIN_SAMPLES_TO_STORE = 200_000
"""Samples from which on a plan is kept on disk: smaller ones are made faster than read."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One micro-batch of the plan: where it stands, and which rows this rank reads for it."""

    plan: EpochPlan
    step_rows: range
    """Positions of the rows of the whole step, over all ranks."""

    rows: list[int | None]
    micro_batch: int
    num_micro_batches: int

    @property
    def epoch(self) -> int:
        return self.plan.arguments.epoch

    @property
    def ends_step(self) -> bool:
        """Whether this is the last micro-batch of its step."""
        return self.micro_batch == self.num_micro_batches - 1


class PlanCursor:
    """The first step that is not done, and the micro-batches of one rank from there on."""

    def __init__(
        self,
        index: PlanIndex,
        arguments: PlanArguments,
        *,
        rows_per_step: int,
        rows_per_micro_batch: int,
        rank: int,
        world_size: int,
        plan_folder: Path | None,
    ):
        """Stand at the start of the epoch in the arguments; plan nothing yet.

        Args:
            plan_folder: folder for plans of large sets, shared by the processes of a node.
        """
        self.index, self.arguments = index, arguments
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = rows_per_micro_batch
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position = arguments.epoch, 0
        self._plan_folder = plan_folder
        self._plans: dict[int, EpochPlan] = {}
        self._pending: dict[int, Future[EpochPlan]] = {}
        self._by_name: tuple[PlanArguments, dict[str, Any]] | None = None

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of each rank in every step, zero-weight rows included."""
        return len(self._deal(range(0)))

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; that of the current epoch and the latest one are held.

        Raises:
            ValueError: a sample fits no row, or the epoch has not one step.
        """
        if epoch not in self._plans:
            coming = self._pending.pop(epoch, None)
            plan = coming.result() if coming else self._make_plan(epoch, self.arguments)
            if plan.num_steps(self.rows_per_step) == 0:
                raise ValueError(
                    f"split {self.arguments.split!r} has {plan.num_rows} rows: not one step of "
                    f"{self.rows_per_step} rows (tail = {self.arguments.tail!r})"
                )
            self._plans = {e: held for e, held in self._plans.items() if e == self.epoch}
            self._plans[epoch] = plan
        return self._plans[epoch]

    def batches_from(self, *, epoch: int, position: int) -> Iterator[PlannedBatch]:
        """Yield the micro-batches of this rank from a step's first row on; never ends by itself."""
        for number in itertools.count(epoch):
            plan = self.plan(number)
            while rows := plan.rows_of_step(position, rows_per_step=self.rows_per_step):
                if rows.stop > plan.num_rows // 2:
                    self._start_planning(number + 1)
                micro_batches = self._deal(rows)
                for micro_batch, mine in enumerate(micro_batches):
                    yield PlannedBatch(plan, rows, mine, micro_batch, len(micro_batches))
                position = rows.stop
            position = 0

    def next_step(self) -> range:
        """Return the rows of the first step that is not done."""
        plan = self.plan(self.epoch)
        return plan.rows_of_step(self.position, rows_per_step=self.rows_per_step)

    def finish_step(self) -> None:
        """Stand after that step, at the start of the next epoch if it was the last."""
        self.position = self.next_step().stop
        if not self.next_step():
            self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, the digest of the plan, the epoch and the position in rows."""
        return {
            "arguments": self.arguments_by_name(),
            "digest": self.plan(self.epoch).digest,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of a state.

        Between epochs all arguments may change.

        Raises:
            ValueError: as `check`, in mid-epoch.
        """
        if state["position"] > 0:
            self.check_state(state)
        self.epoch, self.position = state["epoch"], state["position"]

    def check_state(self, state: dict[str, Any]) -> None:
        """Compare a state with what is planned here.

        `lanes` and `balanced_rows` are taken from it, as a launch chooses them by its world size.

        Raises:
            ValueError: another argument differs, or the same arguments give other rows.
        """
        before = state["arguments"]
        launched = {name: before[name] for name in ("lanes", "balanced_rows")}
        if launched != {name: getattr(self.arguments, name) for name in launched}:
            self.arguments = replace(self.arguments, **launched)
            self._plans.clear()
            self._pending.clear()
        self._refuse_changes(state)
        if self.plan(state["epoch"]).digest != state["digest"]:
            raise ValueError(
                f"cannot go on in epoch {state['epoch']} at row {state['position']}: the plan has "
                f"digest {self.plan(state['epoch']).digest}, the state has {state['digest']}"
            )

    def arguments_by_name(self) -> dict[str, Any]:
        """The arguments of every epoch's plan, the index among them."""
        if self._by_name is None or self._by_name[0] is not self.arguments:
            named = {"index": self.index.digest, **self.arguments.describe()}
            del named["epoch"]
            self._by_name = self.arguments, named
        return self._by_name[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pending": {}}

    def _start_planning(self, epoch: int) -> None:
        """Let a thread make a plan, unless it is made or being made; only one is kept."""
        if epoch in self._plans or epoch in self._pending:
            return
        coming: Future[EpochPlan] = Future()
        self._pending = {epoch: coming}
        arguments = self.arguments

        def make() -> None:
            try:
                coming.set_result(self._make_plan(epoch, arguments))
            except Exception as err:
                coming.set_exception(err)  # raised where the plan is asked for

        threading.Thread(target=make, name="vchat-planning", daemon=True).start()

    def _make_plan(self, epoch: int, arguments: PlanArguments) -> EpochPlan:
        arguments = replace(arguments, epoch=epoch)
        if self._plan_folder is None or len(self.index) < MIN_SAMPLES_TO_STORE:
            return plan_epoch(self.index, arguments)
        return load_or_make_plan(self.index, arguments, folder=self._plan_folder)

    def _deal(self, rows: range) -> list[list[int | None]]:
        return deal_rows(
            rows,
            rows_per_step=self.rows_per_step,
            rows_per_micro_batch=self.rows_per_micro_batch,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _refuse_changes(self, state: dict[str, Any]) -> None:
        """Raise if an argument is not what it was when the state was made."""
        before, now = state["arguments"], self.arguments_by_name()
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"cannot go on in epoch {state['epoch']} at row {state['position']}: "
                    f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
                )
