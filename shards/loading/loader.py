"""Execute an epoch plan: read ahead, check, decode, collate; stop and go on anywhere.

Iterating a `Loader` yields the micro-batches of one rank, step after step and epoch after epoch,
from the position in its state on. Any loop can use it:

    loader = Loader(open_shards(folder), arguments, rows_per_step=64, rows_per_micro_batch=4,
                    rank=rank, world_size=world_size, image_size=224)
    for batch in loader:
        ...                                     # backward
        if batch.ends_step:
            ...                                 # optimizer step
            loader.finish_step()

The state counts completed optimizer steps only: what threads have read ahead, and batches of a step
that never ended, are read again after a resume. It holds no rank and no world size.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.batch_iterator import BatchIterator, LastBatch
from vchat.shards.loading.buffers import BatchBuffer, BufferPool, RowBuffer
from vchat.shards.loading.collate import Batch, LoadedSample
from vchat.shards.loading.prefetch import Prefetcher
from vchat.shards.loading.ranges import PendingRange
from vchat.shards.loading.sample_loader import SampleLoader
from vchat.shards.plan.cursor import PlanCursor, PlannedBatch
from vchat.shards.plan.epoch import EpochPlan, PlanArguments
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.storage.metrics import MetricName, Metrics, sum_metrics
from vchat.shards.storage.store import ShardError

LOGGED_FAULTS = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Equipment:
    """What an iteration works with."""

    threads: ThreadPoolExecutor
    """Each works on one row at a time, from its bytes to its pixels: between threads that only read
    and threads that only decode, the interpreter lock would have to change hands all the time."""

    reader: Prefetcher
    """Has the bytes on their way before they are asked for."""

    rooms: BufferPool


@dataclass(frozen=True, slots=True)
class LoadedRow:
    """What is left to know of a row whose samples lie in the memory of its batch."""

    keys: list[str]
    num_supervised: int
    faults: list[ShardError]

    @classmethod
    def from_samples(cls, samples: Sequence[LoadedSample]) -> LoadedRow:
        """Sum up the samples of a row."""
        return cls(
            keys=[sample.key for sample in samples],
            num_supervised=sum(int(np.count_nonzero(sample.supervised)) for sample in samples),
            faults=[sample.fault for sample in samples if sample.fault is not None],
        )


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A micro-batch that is being read."""

    place: PlannedBatch
    buffer: BatchBuffer
    rows: list[Future[LoadedRow]]

    num_bytes: int
    """Of pixels and of what is read for them."""


class Loader(IterableDataset[Batch]):
    """The micro-batches of one rank over the epochs of one split, resumable on any topology.

    Threads need nothing else. In `torch.utils.data.DataLoader(loader, batch_size=None,
    num_workers=n)` each worker process reads every n-th micro-batch, so the order is the same;
    the state is kept by the loader in the main process. In torchdata's `StatefulDataLoader` the
    state is the one that it collects from its workers.
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
        ranks_per_node: int = 1,
        image_size: int,
        crop: int | None = None,
        threads: int = 2,
        prefetch_rows: int = 16,
        prefetch_bytes: int = 1 << 28,
        on_fault: Literal["raise", "skip"] = "raise",
        max_skipped: int = 100,
        pin_memory: bool = False,
        plan_folder: Path | None = None,
    ):
        """Plan nothing yet; the first plan is made by the first call that needs it.

        Args:
            shard_sets: one, or several that are read as one.
            rows_per_step: over all ranks and micro-batches.
            rank: of `world_size`; the state does not depend on either.
            ranks_per_node: how many ranks share a machine, and with it the cache of shards.
            image_size: shorter side that images are resized to, in pixels.
            crop: side of the centre square that is kept; the shorter side if not given.
            threads: how many check, decode and lay out rows; remote ranges are read by others.
            prefetch_rows: the most rows that are read or wait to be collated.
            prefetch_bytes: the most bytes, read and decoded, they may have together; one
                micro-batch always may. Whole shards on the way into a cache are not among them.
            pin_memory: deliver batches in page-locked memory, for `Batch.to` a GPU without waiting.
            on_fault: `skip` delivers an unreadable sample without labels and with black images.
            max_skipped: the most such samples in an epoch, then it is an error.
            plan_folder: folder where plans of large sets are kept: one process of a node makes a
                plan, the others map it, and a resumed run finds it.
        """
        if isinstance(shard_sets, ShardSet):
            shard_sets = [shard_sets]
        sets = join_sets(shard_sets, split=arguments.split)
        self.cursor = PlanCursor(
            sets.index,
            arguments,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=rows_per_micro_batch,
            rank=rank,
            world_size=world_size,
            plan_folder=plan_folder,
        )
        self.rows_per_step = rows_per_step
        self.crop = crop or image_size
        self.threads = threads
        self.prefetch_rows, self.prefetch_bytes = prefetch_rows, prefetch_bytes
        self.pin_memory = pin_memory
        self.on_fault, self.max_skipped = on_fault, max_skipped
        self.ranks_per_node = ranks_per_node
        self._metrics = Metrics()
        self._store_metrics = [store.metrics for store, _ in sets.shards]
        self._samples = SampleLoader(
            sets,
            grid=arguments.grid,
            image_size=image_size,
            metrics=self._metrics,
        )
        self._inputs = sets.index.image_inputs(arguments.grid)
        if arguments.tiling is not None and arguments.tiling.side != self.crop:
            raise ValueError(
                f"tiles of {arguments.tiling.side} pixels do not go with images of {self.crop}"
            )
        self._delivered: tuple[int, int] | None = None
        self.num_skipped: Counter[int] = Counter()
        """Samples delivered empty under `on_fault = "skip"`, by epoch."""

    @property
    def index(self) -> PlanIndex:
        """The samples of the split, over all shard sets."""
        return self.cursor.index

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of each rank in every step, zero-weight rows included."""
        return self.cursor.micro_batches_per_step

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch.

        Raises:
            ValueError: a sample fits no row, or the epoch has not one step.
        """
        return self.cursor.plan(epoch)

    def __iter__(self) -> BatchIterator:
        """Yield batches from the first step that is not done on; never ends by itself."""
        return BatchIterator(self.cursor, self._batches)

    def metrics(self) -> dict[MetricName, float]:
        """Return what reading has cost this process so far.

        Loaders of the same shard sets share what is counted of bytes, requests, cache and retries.
        """
        return sum_metrics([self._metrics, *self._store_metrics])

    def finish_step(self) -> None:
        """Count the next step as completed: after a resume, it is not delivered again.

        Raises:
            RuntimeError: its last micro-batch has not been delivered, which is known unless worker
                processes deliver.
        """
        epoch, rows = self.cursor.epoch, self.cursor.next_step()
        if self._delivered is not None and self._delivered < (epoch, rows.stop):
            raise RuntimeError(
                f"the step of rows {rows.start} to {rows.stop} of epoch {epoch} cannot be "
                f"done: batches were delivered up to row {self._delivered[1]}"
            )
        self.cursor.finish_step()

    def state_dict(self) -> dict[str, Any]:
        """Return where completed steps end: arguments, plan's digest, epoch, position in rows."""
        return self.cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position of a state; iterate anew afterwards.

        Raises:
            ValueError: an argument differs in mid-epoch, or the same arguments give other rows.
        """
        self.cursor.load_state_dict(state)
        self._delivered = None

    def _batches(self, after: LastBatch | None) -> Iterator[tuple[PlannedBatch, Batch]]:
        """Yield what follows a micro-batch, or the first step that is not done.

        In a worker process of torch's DataLoader, only its share: every n-th micro-batch.
        """
        self._delivered = (self.cursor.epoch, self.cursor.position)
        equipment = Equipment(
            threads=ThreadPoolExecutor(self.threads, thread_name_prefix="vchat-decoding"),
            reader=Prefetcher(
                self._samples.fetcher,
                rank=self.cursor.rank,
                world_size=self.cursor.world_size,
                ranks_per_node=self.ranks_per_node,
            ),
            rooms=BufferPool(
                tokens_per_row=self.cursor.arguments.tokens_per_row,
                side=self.crop,
                pin_memory=self.pin_memory,
                max_free=self.prefetch_rows // self.cursor.rows_per_micro_batch + 1,
            ),
        )
        try:
            for underway in self._read_ahead(equipment, after=after):
                with self._metrics.measure_time("waiting_s"):
                    rows = [row.result() for row in underway.rows]
                place = underway.place
                if place.ends_step:
                    self._delivered = (place.epoch, place.step_rows.stop)
                yield place, self._batch(place, rows, room=underway.buffer)
        finally:
            equipment.threads.shutdown(wait=False, cancel_futures=True)
            equipment.reader.close()
            equipment.threads.shutdown(wait=True)

    def _places_here(self, *, after: LastBatch | None) -> Iterator[PlannedBatch]:
        """Yield the micro-batches that this process reads: all of them, or a worker's share."""
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        if after is None:
            begun = self.cursor.batches_from(epoch=self.cursor.epoch, position=self.cursor.position)
            return itertools.islice(begun, first, None, every)
        begun = self.cursor.batches_from(epoch=after.epoch, position=after.position)
        return itertools.islice(begun, after.micro_batch + every, None, every)

    def _read_ahead(
        self, equipment: Equipment, *, after: LastBatch | None
    ) -> Iterator[PendingBatch]:
        """Yield micro-batches in order, their rows being read; a bounded number ahead."""
        ahead: deque[PendingBatch] = deque()
        for place in self._places_here(after=after):
            equipment.reader.advance(place.plan, place.step_rows.start)
            ahead.append(self._begun(place, equipment))
            while (
                len(ahead) * self.cursor.rows_per_micro_batch >= self.prefetch_rows
                or sum(underway.num_bytes for underway in ahead) >= self.prefetch_bytes
            ):
                yield ahead.popleft()

    def _begun(self, place: PlannedBatch, equipment: Equipment) -> PendingBatch:
        """Let threads load the rows of a place, each into its part of one batch's memory."""
        rows = [np.zeros(0, np.int32) if row is None else place.plan.row(row) for row in place.rows]
        room = equipment.rooms.take([int(self._inputs[row].sum()) for row in rows])
        numbers = np.concatenate(rows)
        readings = equipment.reader.start_reads(numbers)
        loading = [
            equipment.threads.submit(self._load_row, row, room.row(n), readings)
            for n, row in enumerate(rows)
        ]
        num_bytes = room.nbytes + self._samples.fetcher.num_bytes(numbers)
        return PendingBatch(place, room, loading, num_bytes)

    def _load_row(
        self, numbers: NDArray[np.int32], room: RowBuffer, readings: Mapping[int, PendingRange]
    ) -> LoadedRow:
        """Read the samples of a row, decode their images and lay them out in its room."""
        ends = self._inputs[numbers].cumsum().tolist()
        read = [
            self._samples.read(number, pending=readings.get(number)) for number in numbers.tolist()
        ]
        with self._metrics.measure_time("decode_s"):
            samples = [
                self._samples.decode(sample, number=number, pixels=room.pixels[start:end])
                for sample, number, start, end in zip(
                    read, numbers.tolist(), [0, *ends], ends, strict=False
                )
            ]
        self._samples.fill_row(samples, room, numbers=numbers)
        return LoadedRow.from_samples(samples)

    def _batch(self, place: PlannedBatch, rows: list[LoadedRow], *, room: BatchBuffer) -> Batch:
        """Return the rows of a place as a batch that says where in the plan they stand."""
        for row in rows:
            self._check_faults(row, epoch=place.epoch)
        batch = Batch.from_buffer(
            room,
            [row.keys for row in rows],
            num_supervised=sum(row.num_supervised for row in rows),
        )
        return replace(
            batch,
            epoch=place.epoch,
            step=place.step_rows.start // self.rows_per_step,
            micro_batch=place.micro_batch,
            micro_batches=place.num_micro_batches,
            supervised_of_step=place.plan.count_supervised(place.step_rows),
        )

    def _check_faults(self, row: LoadedRow, *, epoch: int) -> None:
        """Count the blanks among the samples of a row, or raise if there may be none."""
        for fault in row.faults:
            if self.on_fault == "raise":
                raise fault
            self.num_skipped[epoch] += 1
            so_far = self.num_skipped[epoch]
            if so_far <= LOGGED_FAULTS:
                log.warning("skipped, number %d of epoch %d: %s", so_far, epoch, fault)
            if so_far > self.max_skipped:
                raise ValueError(
                    f"more than {self.max_skipped} samples skipped in epoch {epoch}"
                ) from fault
