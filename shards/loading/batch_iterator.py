"""One pass over a loader, with a state of its own, as torchdata's `StatefulDataLoader` wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import get_worker_info

from vchat.shards.loading.collate import Batch
from vchat.shards.plan.cursor import PlanCursor, PlannedBatch


class LastBatch(NamedTuple):
    """The micro-batch that an iterator delivered last."""

    epoch: int
    position: int
    """First row of its step."""

    micro_batch: int


class BatchIterator(Iterator[Batch]):
    """One pass over a loader. Its own state says which micro-batch it delivered last.

    torchdata's `StatefulDataLoader` takes that state from every worker process and gives it back.
    Unlike the loader's state it belongs to one rank, world size, micro-batch and number of workers.
    """

    def __init__(
        self,
        cursor: PlanCursor,
        batches: Callable[[LastBatch | None], Iterator[tuple[PlannedBatch, Batch]]],
    ):
        """Begin nothing yet.

        Args:
            batches: what follows a micro-batch, or the first step that is not done.
        """
        self._cursor, self._batches_after = cursor, batches
        self._last: LastBatch | None = None
        self._batches: Iterator[tuple[PlannedBatch, Batch]] | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._batches_after(self._last)
        place, batch = next(self._batches)
        self._last = LastBatch(place.epoch, place.step_rows.start, place.micro_batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what was delivered last, by which plan, and the share this iterator reads."""
        plan = self._cursor.plan(self._last.epoch) if self._last else None
        return {
            "delivered": list(self._last) if self._last else None,
            "digest": plan.digest if plan else None,
            "arguments": self._cursor.arguments_by_name(),
            "share": self._share(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the micro-batch of a state.

        Raises:
            ValueError: it is the state of another share of the batches, or of another plan.
        """
        if state["delivered"] is None:
            return
        if state["share"] != self._share():
            raise ValueError(
                f"cannot go on: the state is of {state['share']}, this iterator reads "
                f"{self._share()}; a change of topology needs the loader's own state_dict"
            )
        self._last = LastBatch(*state["delivered"])
        self._cursor.check_state(
            state | {"epoch": self._last.epoch, "position": self._last.position}
        )
        self._batches = None

    def _share(self) -> dict[str, int]:
        """What decides which micro-batches of the epoch come here."""
        worker, cursor = get_worker_info(), self._cursor
        return {
            "rows_per_step": cursor.rows_per_step,
            "rows_per_micro_batch": cursor.rows_per_micro_batch,
            "rank": cursor.rank,
            "world_size": cursor.world_size,
            "worker": worker.id if worker else 0,
            "num_workers": worker.num_workers if worker else 1,
        }
