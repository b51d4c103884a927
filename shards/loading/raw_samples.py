"""The samples of a plan as raw WebDataset dictionaries, for trainers with their own pipeline.

Out: `{"__key__": "000000042", "__url__": "train-000000.tar", "json": b"...", "tokens.npy": b"...",
"mask.npy": b"...", "0.jpg": b"..."}`, every member checked, in the order of the plan, row after
row. Neither decoded nor packed; there is no padding, so ranks may differ by a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.cursor import PlanCursor
from vchat.shards.plan.joined_sets import join_sets

RawSample = dict[str, Any]


class RawSamples(IterableDataset[RawSample]):
    """One rank's raw samples: an iteration is an epoch, the next iteration is the next epoch.

    In torch's DataLoader each worker process reads every n-th row of the rank; then call
    `set_epoch` before each epoch, and keep the state with torchdata's `StatefulDataLoader`.
    """

    def __init__(
        self,
        shard_sets: ShardSet | Sequence[ShardSet],
        arguments: PlanArguments,
        *,
        rank: int = 0,
        world_size: int = 1,
        plan_folder: Path | None = None,
    ):
        """Plan nothing yet; `tokens_per_row` limits the length of a sample, as in training."""
        if isinstance(shard_sets, ShardSet):
            shard_sets = [shard_sets]
        self._sets = join_sets(shard_sets, split=arguments.split)
        self._cursor = PlanCursor(
            self._sets.index,
            arguments,
            rows_per_step=1,
            rows_per_micro_batch=1,
            rank=rank,
            world_size=world_size,
            plan_folder=plan_folder,
        )
        self._samples_done = 0
        """How many samples of the epoch this process has delivered."""

    def __iter__(self) -> Iterator[RawSample]:
        """Yield the samples of the epoch that are not delivered yet."""
        cursor = self._cursor
        plan = cursor.plan(cursor.epoch)
        worker = get_worker_info()
        share, shares = (worker.id, worker.num_workers) if worker else (0, 1)
        first = cursor.rank + share * cursor.world_size
        rows = range(first, plan.num_rows, cursor.world_size * shares)
        numbers = itertools.chain.from_iterable(plan.row(row).tolist() for row in rows)
        for number in itertools.islice(numbers, self._samples_done, None):
            self._samples_done += 1
            yield self._read(number)
        cursor.epoch, self._samples_done = cursor.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the plan and how many samples of the epoch this process delivered."""
        return self._cursor.state_dict() | {
            "samples_done": self._samples_done,
            "rank": self._cursor.rank,
            "world_size": self._cursor.world_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last delivered sample.

        Raises:
            ValueError: in mid-epoch, if the plan, rank or world size differ.
        """
        cursor = self._cursor
        if state["samples_done"]:
            for name in ("rank", "world_size"):
                if state[name] != getattr(cursor, name):
                    raise ValueError(
                        f"cannot go on in epoch {state['epoch']} after {state['samples_done']} "
                        f"samples: {name} was {state[name]}, is {getattr(cursor, name)}"
                    )
            cursor.check_state(state)
        cursor.load_state_dict(state)
        self._samples_done = state["samples_done"]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: worker processes cannot tell the main process that one is over."""
        self._cursor.epoch, self._samples_done = epoch, 0

    def _read(self, number: int) -> RawSample:
        shard_set, entry = self._sets.locate(number)
        members = shard_set.read_members(entry)
        return {"__key__": entry["stem"], "__url__": shard_set.shard_name(entry), **members}
