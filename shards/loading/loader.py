"""Execute an epoch plan: read, check, decode and collate its rows; resume exactly.

Iterating a `Loader` yields the micro-batches of one rank, step after step and epoch after epoch,
from the first unfinished step in its state on. Any loop can use it:

    loader = Loader(open_shards(folder), arguments, rows_per_step=64, rows_per_micro_batch=4,
                    rank=rank, world_size=world_size, image_size=224)
    for batch in loader:
        ...                                     # backward
        if batch.ends_step:
            ...                                 # optimizer step
            loader.finish_step()

The state counts finished optimizer steps only: what was prefetched, and batches of a step that
never finished, are read again after a resume. It holds no rank and no world size.

`batch_iterator.py` has what happens in one pass, as a chain of stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset

from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.batch_iterator import BatchIterator, BatchReader
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.faults import FaultPolicy
from vchat.shards.loading.fetch import SampleFetcher
from vchat.shards.loading.sample_loader import SampleLoader
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.cursor import PlanCursor
from vchat.shards.plan.epoch import EpochPlan
from vchat.shards.plan.excluded_keys import ExcludeHistory
from vchat.shards.plan.joined_sets import join_sets
from vchat.shards.plan.plan_index import PlanIndex
from vchat.shards.storage.metrics import MetricName, Metrics, sum_metrics


class Loader(IterableDataset[Batch]):
    """The micro-batches of one rank over the epochs of one split, resumable on any topology.

    Its own threads suffice. In `torch.utils.data.DataLoader(loader, batch_size=None,
    num_workers=n)` each worker process reads every n-th micro-batch, so the order is the same;
    the loader in the main process keeps the state. torchdata's `StatefulDataLoader` collects its
    state from its workers.
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
        exclude_history: ExcludeHistory | None = None,
    ):
        """Plan nothing yet; the first call that needs a plan makes it.

        Args:
            shard_sets: one, or several that are read as one.
            rows_per_step: over all ranks and micro-batches.
            rank: of `world_size`; the state does not depend on either.
            ranks_per_node: how many ranks share a machine, and with it the cache of shards.
            image_size: shorter side that images are resized to, in pixels.
            crop: side of the centre square that is kept; the shorter side if not given.
            threads: how many check, decode and lay out rows; other threads read remote ranges.
            prefetch_rows: the most rows that are being read or wait to be collated.
            prefetch_bytes: the most bytes, read and decoded, they may have together; one
                micro-batch always may. Whole shards for the cache do not count.
            pin_memory: deliver batches in page-locked memory, for `Batch.to` a GPU without waiting.
            on_fault: `skip` delivers an unreadable sample without labels and with black images.
            max_skipped: the most such samples in an epoch, then it is an error.
            plan_folder: folder that keeps plans of large sets: one process of a node makes a
                plan, the others map it, and a resumed run finds it.
            exclude_history: the list of each epoch, if earlier ones had another than
                `arguments.exclude`, which is the newest in it.
        """
        if isinstance(shard_sets, ShardSet):
            shard_sets = [shard_sets]
        side = crop or image_size
        if arguments.tiling is not None and arguments.tiling.side != side:
            raise ValueError(
                f"tiles of {arguments.tiling.side} pixels do not go with images of {side}"
            )
        sets = join_sets(shard_sets, split=arguments.split)
        self.cursor = PlanCursor(
            sets.index,
            arguments,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=rows_per_micro_batch,
            rank=rank,
            world_size=world_size,
            plan_folder=plan_folder,
            exclude_history=exclude_history,
        )
        self._faults = FaultPolicy(on_fault=on_fault, max_skipped=max_skipped)
        self._metrics = Metrics()
        self._store_metrics = [store.metrics for store, _ in sets.shards]
        fetcher = SampleFetcher(sets)
        self._reader = BatchReader(
            cursor=self.cursor,
            fetcher=fetcher,
            samples=SampleLoader(
                sets,
                fetcher,
                grid=arguments.grid,
                image_size=image_size,
                metrics=self._metrics,
            ),
            faults=self._faults,
            metrics=self._metrics,
            image_side=side,
            num_threads=threads,
            prefetch_rows=prefetch_rows,
            prefetch_bytes=prefetch_bytes,
            pin_memory=pin_memory,
            ranks_per_node=ranks_per_node,
        )

    @property
    def index(self) -> PlanIndex:
        """The samples of the split, over all shard sets."""
        return self.cursor.index

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, over all ranks and micro-batches."""
        return self.cursor.rows_per_step

    @property
    def micro_batches_per_step(self) -> int:
        """Micro-batches of each rank in every step, zero-weight rows included."""
        return self.cursor.micro_batches_per_step

    @property
    def epoch(self) -> int:
        """Epoch of the first step that is not finished, from 0."""
        return self.cursor.epoch

    @property
    def num_skipped(self) -> Counter[int]:
        """Samples delivered empty under `on_fault = "skip"`, by epoch."""
        return self._faults.num_skipped

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of one epoch.

        Raises:
            ValueError: a sample fits no row, or the epoch has not one step.
        """
        return self.cursor.plan(epoch)

    def __iter__(self) -> BatchIterator:
        """Yield batches from the first unfinished step on; never ends by itself."""
        return BatchIterator(self._reader)

    def metrics(self) -> dict[MetricName, float]:
        """Return what reading has cost this process so far.

        Loaders of the same shard sets share the counts of bytes, requests, cache and retries.
        """
        return sum_metrics([self._metrics, *self._store_metrics])

    def finish_step(self) -> None:
        """Count the next step as finished: after a resume, it is not delivered again.

        Raises:
            RuntimeError: its last micro-batch has not been delivered. Where worker processes
                deliver, this is not known and not checked.
        """
        self.cursor.finish_step()

    def state_dict(self) -> dict[str, Any]:
        """Return where finished steps end: arguments, digest of the plan, epoch and row."""
        return self.cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the step of a state; takes effect with a new iteration.

        Raises:
            ValueError: an argument differs in mid-epoch, or the same arguments give other rows.
        """
        self.cursor.load_state_dict(state)
