"""Execute an epoch plan: read ahead, check, decode, collate; stop and go on anywhere.

Iterating a `Loader` yields the micro-batches of one rank, step after step and epoch after epoch,
from the position in its state on. Any loop can use it:

    loader = Loader(open_shards(folder), arguments, rows_per_step=64, rows_per_micro_batch=4,
                    rank=rank, world_size=world_size, image_size=224)
    for batch in loader:
        ...                                     # backward
        if batch.micro_batch == batch.micro_batches - 1:
            ...                                 # optimizer step
            loader.step_done()

The state counts completed optimizer steps only: what threads have read ahead, and batches of a step
that never ended, are read again after a resume. It holds no rank and no world size.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info
from vchat.shards.collate import Batch, LoadedSample, collated
from vchat.shards.epoch import EpochPlan, PlanArguments, dealt, plan_epoch
from vchat.shards.joined_sets import joined
from vchat.shards.manifest import ShardSet
from vchat.shards.sample_loader import SampleLoader

LOGGED_FAULTS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """One micro-batch of the plan: where it stands, and which rows this rank reads for it."""

    plan: EpochPlan
    step_rows: range
    """Positions of the rows of the whole step, over all ranks."""

    rows: list[int | None]
    micro_batch: int
    micro_batches: int

    @property
    def ends_step(self) -> bool:
        """Whether this is the last micro-batch of its step."""
        return self.micro_batch == self.micro_batches - 1


@dataclass(frozen=True, slots=True)
class Underway:
    """A micro-batch that is being read."""

    place: Place
    pixels: NDArray[np.uint8]
    """uint8[N, 3, crop, crop] of all its images: every row is decoded into its own part."""

    rows: list[Future[list[LoadedSample]]]


class Loader(IterableDataset[Batch]):
    """The micro-batches of one rank over the epochs of one split, resumable on any topology.

    Threads need nothing else. In `torch.utils.data.DataLoader(loader, batch_size=None,
    num_workers=n)` each worker process reads every n-th micro-batch, so the order is the same;
    the state is kept by the loader in the main process.
    """

    def __init__(
        self,
        shard_sets: ShardSet | Sequence[ShardSet],
        arguments: PlanArguments,
        *,
        rows_per_step: int,
        rows_per_micro_batch: int = 1,
        rank: int = 0,
        world_size: int = 1,
        image_size: int,
        crop: int | None = None,
        threads: int | None = None,
        read_ahead_rows: int = 16,
        read_ahead_bytes: int = 1 << 28,
        on_fault: Literal["raise", "skip"] = "raise",
        max_skipped: int = 100,
    ):
        """Plan nothing yet; the first plan is made by the first call that needs it.

        Args:
            shard_sets: one, or several that are read as one.
            rows_per_step: over all ranks and micro-batches.
            rank: of `world_size`; the state does not depend on either.
            image_size: shorter side that images are resized to, in pixels.
            crop: side of the centre square that is kept; the shorter side if not given.
            threads: how many read and decode; by default what keeps the place of the shards busy.
            read_ahead_rows: the most rows that are read or wait to be collated.
            read_ahead_bytes: the most pixels they may have together; one micro-batch always may.
            on_fault: `skip` delivers an unreadable sample without labels and with black images.
            max_skipped: the most such samples in the life of the loader, then it is an error.
        """
        if isinstance(shard_sets, ShardSet):
            shard_sets = [shard_sets]
        sets = joined(shard_sets, split=arguments.split)
        self.index, self._pad_id = sets.index, sets.pad_id
        self.arguments = arguments
        self.rows_per_step = rows_per_step
        self.rows_per_micro_batch = rows_per_micro_batch
        self.rank, self.world_size = rank, world_size
        self.crop = crop or image_size
        self.threads = threads or max(store.readers for store, _ in sets.shards)
        self.read_ahead_rows, self.read_ahead_bytes = read_ahead_rows, read_ahead_bytes
        self.on_fault, self.max_skipped = on_fault, max_skipped
        self._samples = SampleLoader(
            sets,
            positions_per_image=arguments.positions_per_image,
            image_size=image_size,
        )
        self._plans: dict[int, EpochPlan] = {}
        self._epoch, self._position = arguments.epoch, 0
        self._delivered: tuple[int, int] | None = None
        self.waiting_s = 0.0
        """Seconds the consumer has waited for rows."""

        self.num_skipped = 0
        """Samples delivered empty under `on_fault = "skip"`."""

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of each rank in every step, zero-weight rows included."""
        places = dealt(
            range(0),
            rows_per_step=self.rows_per_step,
            rows_per_micro_batch=self.rows_per_micro_batch,
            rank=self.rank,
            world_size=self.world_size,
        )
        return len(places)

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch; that of the current epoch and the latest one are kept.

        Raises:
            ValueError: a sample fits no row, or the epoch has not one step.
        """
        if epoch not in self._plans:
            plan = plan_epoch(self.index, replace(self.arguments, epoch=epoch))
            if plan.num_steps(self.rows_per_step) == 0:
                raise ValueError(
                    f"split {self.arguments.split!r} has {plan.num_rows} rows: not one step of "
                    f"{self.rows_per_step} rows (tail = {self.arguments.tail!r})"
                )
            self._plans = {e: kept for e, kept in self._plans.items() if e == self._epoch}
            self._plans[epoch] = plan
        return self._plans[epoch]

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the first step that is not done on; never ends by itself."""
        self._delivered = (self._epoch, self._position)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="vchat-loader")
        try:
            for underway in self._read_ahead(pool):
                began = time.perf_counter()
                rows = [row.result() for row in underway.rows]
                self.waiting_s += time.perf_counter() - began
                place = underway.place
                if place.ends_step:
                    self._delivered = (place.plan.arguments.epoch, place.step_rows.stop)
                yield self._batch(place, rows, pixels=underway.pixels)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def step_done(self) -> None:
        """Count the next step as completed: after a resume, it is not delivered again.

        Raises:
            RuntimeError: its last micro-batch has not been delivered, which is known unless worker
                processes deliver.
        """
        plan = self.plan(self._epoch)
        rows = plan.rows_of_step(self._position, rows_per_step=self.rows_per_step)
        if self._delivered is not None and self._delivered < (self._epoch, rows.stop):
            raise RuntimeError(
                f"the step of rows {rows.start} to {rows.stop} of epoch {self._epoch} cannot be "
                f"done: batches were delivered up to row {self._delivered[1]}"
            )
        self._position = rows.stop
        if not plan.rows_of_step(self._position, rows_per_step=self.rows_per_step):
            self._epoch, self._position = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, the digest of the plan, the epoch and the position in rows."""
        return {
            "arguments": self._named_arguments(),
            "digest": self.plan(self._epoch).digest,
            "epoch": self._epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of a state; iterate anew afterwards.

        `lanes` and `balanced_rows` are taken from the state, because a launch chooses them by its
        world size. Between epochs all arguments may change.

        Raises:
            ValueError: an argument differs in mid-epoch, or the same arguments give other rows.
        """
        epoch, position = int(state["epoch"]), int(state["position"])
        if position > 0:
            before = state["arguments"]
            self.arguments = replace(
                self.arguments, lanes=before["lanes"], balanced_rows=before["balanced_rows"]
            )
            self._plans.clear()
            self._refuse_changes(state)
        self._epoch, self._position = epoch, position
        self._delivered = None
        if position > 0 and self.plan(epoch).digest != state["digest"]:
            raise ValueError(
                f"cannot go on in epoch {epoch} at row {position}: the plan has digest "
                f"{self.plan(epoch).digest}, the state has {state['digest']}"
            )

    def _refuse_changes(self, state: dict[str, Any]) -> None:
        """Raise if an argument is not what it was when the state was made."""
        before, now = state["arguments"], self._named_arguments()
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"cannot go on in epoch {state['epoch']} at row {state['position']}: "
                    f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
                )

    def _named_arguments(self) -> dict[str, Any]:
        """The arguments of every epoch's plan, the index among them."""
        arguments = {"index": self.index.digest, **self.arguments.described()}
        del arguments["epoch"]
        return arguments

    def _places_here(self) -> Iterator[Place]:
        """Yield the micro-batches that this process reads: all of them, or a worker's share."""
        worker = get_worker_info()
        if worker is None:
            return self._places()
        return itertools.islice(self._places(), worker.id, None, worker.num_workers)

    def _places(self) -> Iterator[Place]:
        """Yield the micro-batches of this rank from the first step that is not done."""
        position = self._position
        for epoch in itertools.count(self._epoch):
            plan = self.plan(epoch)
            while rows := plan.rows_of_step(position, rows_per_step=self.rows_per_step):
                micro_batches = dealt(
                    rows,
                    rows_per_step=self.rows_per_step,
                    rows_per_micro_batch=self.rows_per_micro_batch,
                    rank=self.rank,
                    world_size=self.world_size,
                )
                for number, mine in enumerate(micro_batches):
                    yield Place(plan, rows, mine, number, len(micro_batches))
                position = rows.stop
            position = 0

    def _read_ahead(self, pool: ThreadPoolExecutor) -> Iterator[Underway]:
        """Yield micro-batches in order, their rows being read; a bounded number ahead."""
        ahead: deque[Underway] = deque()
        for place in self._places_here():
            ahead.append(self._begun(place, pool))
            while (
                len(ahead) * self.rows_per_micro_batch >= self.read_ahead_rows
                or sum(underway.pixels.nbytes for underway in ahead) >= self.read_ahead_bytes
            ):
                yield ahead.popleft()

    def _begun(self, place: Place, pool: ThreadPoolExecutor) -> Underway:
        """Let the pool read the rows of a place, each into its part of one array of pixels."""
        rows = [np.zeros(0, np.int64) if row is None else place.plan.row(row) for row in place.rows]
        num_images = [int(self.index.num_images[row].sum()) for row in rows]
        pixels = np.empty((sum(num_images), 3, self.crop, self.crop), np.uint8)
        parts = np.split(pixels, np.cumsum(num_images)[:-1])
        reading = [
            pool.submit(self._load_row, row, part) for row, part in zip(rows, parts, strict=True)
        ]
        return Underway(place, pixels, reading)

    def _load_row(
        self, numbers: NDArray[np.int64], pixels: NDArray[np.uint8]
    ) -> list[LoadedSample]:
        """Return the samples of a row; their images are decoded into `pixels`."""
        parts = np.split(pixels, np.cumsum(self.index.num_images[numbers])[:-1])
        return [
            self._samples.load_or_blank(int(number), pixels=part)
            for number, part in zip(numbers, parts, strict=False)
        ]

    def _batch(
        self, place: Place, rows: list[list[LoadedSample]], *, pixels: NDArray[np.uint8]
    ) -> Batch:
        """Collate the rows of a place and say where in the plan they stand."""
        plan, first = place.plan, place.step_rows.start
        for row in rows:
            self._check_faults(row)
        batch = collated(
            rows,
            pixels=pixels,
            tokens_per_row=self.arguments.tokens_per_row,
            pad_id=self._pad_id,
        )
        return replace(
            batch,
            epoch=plan.arguments.epoch,
            step=first // self.rows_per_step,
            micro_batch=place.micro_batch,
            micro_batches=place.micro_batches,
            supervised_of_step=int(plan.supervised_per_row[first : place.step_rows.stop].sum()),
        )

    def _check_faults(self, row: list[LoadedSample]) -> None:
        """Count the blanks among the samples of a row, or raise if there may be none."""
        for fault in [sample.fault for sample in row if sample.fault is not None]:
            if self.on_fault == "raise":
                raise fault
            self.num_skipped += 1
            if self.num_skipped <= LOGGED_FAULTS:
                log.warning("skipped (%d so far): %s", self.num_skipped, fault)
            if self.num_skipped > self.max_skipped:
                raise ValueError(f"more than {self.max_skipped} samples skipped") from fault
