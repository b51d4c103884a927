"""How far a reader is in the epochs of a run: the plans, what one rank reads next, and a state.

A state is the arguments of the plans, the digest of the current one, its epoch, and a position in
rows of finished steps. It holds no rank, world size or micro-batch, so any of them may change.

While the second half of an epoch is read, a thread makes the plan of the next one, so that its
first batch does not wait for it. A plan is a pure function: it does not matter who makes it, or
when.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.epoch import EpochPlan, deal_rows, plan_epoch
from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.plan.saved_plans import load_or_make_plan
from vchat.shards.plan.window_packing import SampleNumbers

MIN_SAMPLES_TO_STORE = 200_000
"""Plans of fewer samples are not saved to disk: making one is faster than reading it."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One micro-batch of the plan: its step, and which rows this rank reads for it."""

    plan: EpochPlan
    step: int
    """In the epoch, from 0."""

    step_rows: range
    """Rows of the whole step, over all ranks."""

    rows: list[int | None]
    """None is a zero-weight row."""

    micro_batch: int
    """In the step on this rank, from 0."""

    num_micro_batches: int

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return self.plan.arguments.epoch

    @property
    def ends_step(self) -> bool:
        """Whether this is the last micro-batch of its step."""
        return self.micro_batch == self.num_micro_batches - 1

    def samples_by_row(self) -> list[SampleNumbers]:
        """Return the sample numbers of each row; a zero-weight row has none."""
        return [np.zeros(0, np.int32) if row is None else self.plan.row(row) for row in self.rows]


class PlanCursor:
    """The first unfinished step, and the micro-batches of one rank from there on."""

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
        exclude_history: ExcludeHistory | None = None,
    ):
        """Begin at the start of the epoch in the arguments; plan nothing yet.

        Args:
            plan_folder: folder for plans of large sets, shared by the processes of a node.
            exclude_history: the list of each epoch, if earlier ones had another than
                `arguments.exclude`, which is the newest in it.
        """
        self.index, self.arguments = index, arguments
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = rows_per_micro_batch
        self.rank, self.world_size = rank, world_size
        self.epoch, self.next_row = arguments.epoch, 0
        self._delivered: tuple[int, int] | None = None
        """Epoch and row up to which whole steps were delivered; None if other processes deliver."""

        self._plan_folder, self._exclude_history = plan_folder, exclude_history
        self._plans: dict[int, EpochPlan] = {}
        self._pending: dict[int, Future[EpochPlan]] = {}
        self._by_name: tuple[PlanArguments, dict[str, Any]] | None = None

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of each rank in every step, zero-weight rows included."""
        return len(self._deal(range(0)))

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; keeps those of the current and the latest epoch.

        Raises:
            ValueError: a sample fits no row, or the epoch has not one step.
        """
        if epoch not in self._plans:
            pending = self._pending.pop(epoch, None)
            plan = pending.result() if pending else self._make_plan(epoch, self.arguments)
            if plan.num_steps(self.rows_per_step) == 0:
                raise ValueError(
                    f"split {self.arguments.split!r} has {plan.num_rows} rows: not one step of "
                    f"{self.rows_per_step} rows (tail = {self.arguments.tail!r})"
                )
            self._plans = {e: made for e, made in self._plans.items() if e == self.epoch}
            self._plans[epoch] = plan
        return self._plans[epoch]

    def batches_from(self, *, epoch: int, first_row: int) -> Iterator[PlannedBatch]:
        """Yield the micro-batches of this rank from a step's first row on; never ends by itself."""
        for number in itertools.count(epoch):
            plan = self.plan(number)
            while rows := plan.rows_of_step(first_row, rows_per_step=self.rows_per_step):
                if rows.stop > plan.num_rows // 2:
                    self._start_planning(number + 1)
                step = first_row // self.rows_per_step
                micro_batches = self._deal(rows)
                for micro_batch, own_rows in enumerate(micro_batches):
                    yield PlannedBatch(plan, step, rows, own_rows, micro_batch, len(micro_batches))
                first_row = rows.stop
            first_row = 0

    def next_step(self) -> range:
        """Return the rows of the first unfinished step."""
        plan = self.plan(self.epoch)
        return plan.rows_of_step(self.next_row, rows_per_step=self.rows_per_step)

    def start_delivery(self) -> None:
        """Note that this process delivers batches from now on: `finish_step` checks them."""
        self._delivered = (self.epoch, self.next_row)

    def note_delivery(self, batch: PlannedBatch) -> None:
        """Note that a micro-batch was delivered."""
        if batch.ends_step:
            self._delivered = (batch.epoch, batch.step_rows.stop)

    def finish_step(self) -> None:
        """Advance over that step, to the start of the next epoch if it was the last.

        Raises:
            RuntimeError: this process delivers, and has not delivered the whole step.
        """
        rows = self.next_step()
        if self._delivered is not None and self._delivered < (self.epoch, rows.stop):
            raise RuntimeError(
                f"the step of rows {rows.start} to {rows.stop} of epoch {self.epoch} cannot be "
                f"finished: batches were delivered up to row {self._delivered[1]}"
            )
        self.next_row = rows.stop
        if not self.next_step():
            self.epoch, self.next_row = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, the digest of the plan, the epoch and the position in rows."""
        return {
            "arguments": self.arguments_by_name(),
            "digest": self.plan(self.epoch).digest,
            "epoch": self.epoch,
            "position": self.next_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of a state.

        Between epochs all arguments may change.

        Raises:
            ValueError: as `check_state`, in mid-epoch.
        """
        if state["position"] > 0:
            self.check_state(state)
        self.epoch, self.next_row = state["epoch"], state["position"]
        self._delivered = None

    def check_state(self, state: dict[str, Any]) -> None:
        """Compare a state with the plans made here.

        Takes `lanes` and `balanced_rows` from it, as a launch chooses them by its world size.

        Raises:
            ValueError: another argument differs, or the same arguments give other rows.
        """
        before = state["arguments"]
        chosen = {name: before[name] for name in ("lanes", "balanced_rows")}
        if chosen != {name: getattr(self.arguments, name) for name in chosen}:
            self.arguments = replace(self.arguments, **chosen)
            self._plans.clear()
            self._pending.clear()
        self._refuse_changes(state)
        if self.plan(state["epoch"]).digest != state["digest"]:
            raise ValueError(
                f"cannot go on in epoch {state['epoch']} at row {state['position']}: the plan has "
                f"digest {self.plan(state['epoch']).digest}, the state has {state['digest']}"
            )

    def arguments_by_name(self) -> dict[str, Any]:
        """Return what every epoch's plan is made of: the arguments, and the index by its digest."""
        if self._by_name is None or self._by_name[0] is not self.arguments:
            by_name = {"index": self.index.digest, **self.arguments.describe()}
            del by_name["epoch"]
            self._by_name = self.arguments, by_name
        return self._by_name[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pending": {}}

    def _start_planning(self, epoch: int) -> None:
        """Let a thread make a plan, unless there is one; at most one is pending."""
        if epoch in self._plans or epoch in self._pending:
            return
        pending: Future[EpochPlan] = Future()
        self._pending = {epoch: pending}
        arguments = self.arguments

        def make() -> None:
            try:
                pending.set_result(self._make_plan(epoch, arguments))
            except Exception as err:
                pending.set_exception(err)  # `plan` raises it

        threading.Thread(target=make, name="vchat-planning", daemon=True).start()

    def _make_plan(self, epoch: int, arguments: PlanArguments) -> EpochPlan:
        if self._exclude_history is not None:
            arguments = replace(arguments, exclude=self._exclude_history.keys_of(epoch))
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
