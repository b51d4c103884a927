"""One pass over a loader: a chain of generators, and an iterator that can be stopped and resumed.

`BatchReader.read` composes the chain; its stages follow in the order in which they work:

    next_batches       which rows this process reads next, from the plan
    start_batches      take a buffer, start remote reads, let threads read and decode
    keep_ahead         hold a bounded number of started micro-batches
    wait_for_rows      until the buffer of the first one is full
    collate_batches    tensors, with their step and number in the plan
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import get_worker_info

from vchat.shards.loading.buffers import BatchBuffer, BufferPool
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.faults import FaultPolicy
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.loading.prefetch import Prefetcher
from vchat.shards.loading.sample_loader import LoadedRow, SampleLoader
from vchat.shards.plan.cursor import PlanCursor, PlannedBatch
from vchat.shards.storage.metrics import Metrics


class LastBatch(NamedTuple):
    """The micro-batch that an iterator delivered last."""

    epoch: int
    first_row: int
    """Of its step."""

    micro_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReader:
    """What a pass over a loader works with, and the chain of its stages."""

    cursor: PlanCursor
    fetcher: SampleFetcher
    samples: SampleLoader
    faults: FaultPolicy
    metrics: Metrics
    image_side: int
    """Of the square images in a batch, in pixels."""

    num_threads: int
    prefetch_rows: int
    prefetch_bytes: int
    pin_memory: bool
    ranks_per_node: int

    def read(self, *, after: LastBatch | None) -> Iterator[tuple[PlannedBatch, Batch]]:
        """Yield the micro-batches after one, or those from the first unfinished step on."""
        cursor = self.cursor
        threads = ThreadPoolExecutor(self.num_threads, thread_name_prefix="vchat-decoding")
        prefetcher = Prefetcher(
            self.fetcher,
            rank=cursor.rank,
            world_size=cursor.world_size,
            ranks_per_node=self.ranks_per_node,
        )
        buffers = BufferPool(
            tokens_per_row=cursor.arguments.tokens_per_row,
            side=self.image_side,
            pin_memory=self.pin_memory,
            max_free=self.prefetch_rows // cursor.rows_per_micro_batch + 1,
        )
        try:
            planned = next_batches(cursor, after=after)
            started = start_batches(
                planned, self.samples, prefetcher=prefetcher, buffers=buffers, threads=threads
            )
            ahead = keep_ahead(started, max_rows=self.prefetch_rows, max_bytes=self.prefetch_bytes)
            loaded = wait_for_rows(ahead, metrics=self.metrics)
            yield from collate_batches(loaded, faults=self.faults)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            prefetcher.close()
            threads.shutdown(wait=True)


def next_batches(cursor: PlanCursor, *, after: LastBatch | None) -> Iterator[PlannedBatch]:
    """Yield the micro-batches that this process reads, without end.

    In a worker process of torch's DataLoader these are its share: every n-th micro-batch.

    Args:
        after: the last one that was delivered; None to begin at the first unfinished step.
    """
    worker = get_worker_info()
    first, every = (worker.id, worker.num_workers) if worker else (0, 1)
    if after is None:
        batches = cursor.batches_from(epoch=cursor.epoch, first_row=cursor.next_row)
        return itertools.islice(batches, first, None, every)
    batches = cursor.batches_from(epoch=after.epoch, first_row=after.first_row)
    return itertools.islice(batches, after.micro_batch + every, None, every)


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """A micro-batch that is being read."""

    planned: PlannedBatch
    buffer: BatchBuffer
    rows: list[Future[LoadedRow]]

    num_bytes: int
    """Of its buffer and of what is read for it."""


def start_batches(
    planned_batches: Iterable[PlannedBatch],
    samples: SampleLoader,
    *,
    prefetcher: Prefetcher,
    buffers: BufferPool,
    threads: ThreadPoolExecutor,
) -> Iterator[PendingBatch]:
    """Start reading each micro-batch: remote ranges first, then each row by a thread.

    One thread takes a row from its bytes to its pixels: between threads that only read and threads
    that only decode, the interpreter lock would have to change hands all the time.
    """
    for planned in planned_batches:
        prefetcher.advance(planned.plan, planned.step_rows.start)
        rows = planned.samples_by_row()
        buffer = buffers.take([samples.num_inputs(row) for row in rows])
        numbers = np.concatenate(rows)
        pending = prefetcher.start_reads(numbers)
        loading = [
            threads.submit(samples.load_row, row, buffer.row(n), pending=pending)
            for n, row in enumerate(rows)
        ]
        yield PendingBatch(planned, buffer, loading, buffer.nbytes + samples.num_bytes(numbers))


def keep_ahead(
    batches: Iterable[PendingBatch], *, max_rows: int, max_bytes: int
) -> Iterator[PendingBatch]:
    """Yield started micro-batches in order, while a bounded number behind them is being read.

    Args:
        max_rows: the most rows that are started and not yielded.
        max_bytes: the most bytes these have together; one micro-batch may have more.
    """
    ahead: deque[PendingBatch] = deque()
    for batch in batches:
        ahead.append(batch)
        while ahead and (
            sum(len(pending.rows) for pending in ahead) >= max_rows
            or sum(pending.num_bytes for pending in ahead) >= max_bytes
        ):
            yield ahead.popleft()
    yield from ahead


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A micro-batch whose rows are in its buffer."""

    planned: PlannedBatch
    buffer: BatchBuffer
    rows: list[LoadedRow]


def wait_for_rows(batches: Iterable[PendingBatch], *, metrics: Metrics) -> Iterator[LoadedBatch]:
    """Wait until the threads have filled the buffer of each micro-batch; the time is measured."""
    for batch in batches:
        with metrics.measure_time("waiting_s"):
            rows = [row.result() for row in batch.rows]
        yield LoadedBatch(batch.planned, batch.buffer, rows)


def collate_batches(
    loaded_batches: Iterable[LoadedBatch], *, faults: FaultPolicy
) -> Iterator[tuple[PlannedBatch, Batch]]:
    """Yield each micro-batch as tensors, with its epoch, step and number.

    Raises:
        ShardError: a sample is unreadable, under `on_fault = "raise"`.
        ValueError: more samples were skipped in an epoch than may be.
    """
    for loaded in loaded_batches:
        planned = loaded.planned
        for row in loaded.rows:
            faults.handle(row.faults, epoch=planned.epoch)
        batch = Batch.from_buffer(
            loaded.buffer,
            [row.keys for row in loaded.rows],
            num_supervised=sum(row.num_supervised for row in loaded.rows),
        )
        yield (
            planned,
            replace(
                batch,
                epoch=planned.epoch,
                step=planned.step,
                micro_batch=planned.micro_batch,
                micro_batches=planned.num_micro_batches,
                supervised_of_step=planned.plan.count_supervised(planned.step_rows),
            ),
        )


class BatchIterator(Iterator[Batch]):
    """One pass over a loader. Its own state says which micro-batch it delivered last.

    torchdata's `StatefulDataLoader` takes that state from every worker process and gives it back.
    Unlike the loader's state it belongs to one rank, world size, micro-batch and number of workers.
    """

    def __init__(self, reader: BatchReader):
        """Read nothing yet."""
        self._reader, self._cursor = reader, reader.cursor
        self._last: LastBatch | None = None
        self._batches: Iterator[tuple[PlannedBatch, Batch]] | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._cursor.start_delivery()
            self._batches = self._reader.read(after=self._last)
        planned, batch = next(self._batches)
        self._last = LastBatch(planned.epoch, planned.step_rows.start, planned.micro_batch)
        self._cursor.note_delivery(planned)
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
        last = LastBatch(*state["delivered"])
        self._cursor.check_state(state | {"epoch": last.epoch, "position": last.first_row})
        self._last, self._batches = last, None

    def _share(self) -> dict[str, int]:
        """Return what decides which micro-batches of the epoch come here."""
        worker, cursor = get_worker_info(), self._cursor
        return {
            "rows_per_step": cursor.rows_per_step,
            "rows_per_micro_batch": cursor.rows_per_micro_batch,
            "rank": cursor.rank,
            "world_size": cursor.world_size,
            "worker": worker.id if worker else 0,
            "num_workers": worker.num_workers if worker else 1,
        }
