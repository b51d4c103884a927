"""The data of a run: its loader, how many optimizer steps it has, and the held-out batches.

The one place that turns `[data]` of RUN.toml and plain numbers of the model (image size, positions
per image) into loaders.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.loader import Loader
from vchat.shards.plan.arguments import PlanArguments
from vchat.shards.plan.excluded_keys import (
    ExcludeHistory,
    describe_unknown_keys,
    find_unknown_keys,
    read_keys,
)
from vchat.shards.plan.joined_sets import check_same_language
from vchat.shards.plan.saved_plans import default_plan_folder
from vchat.shards.storage.config import StorageConfig
from vchat.train.config.model import ModelSizes
from vchat.train.config.run import BatchConfig, DataConfig, OutputConfig
from vchat.train.engine.processes import RankShare


class RunData:
    """Batches of one rank, step by step, over all epochs of a run."""

    def __init__(
        self,
        shard_sets: Sequence[ShardSet],
        data: DataConfig,
        batch: BatchConfig,
        run: OutputConfig,
        *,
        sizes: ModelSizes,
        share: RankShare,
        exclude_history: ExcludeHistory | None = None,
    ):
        """Plan the first epoch (all epochs, if the run is counted in epochs); read nothing yet.

        Args:
            exclude_history: the list of each epoch; by default all have that of `data.exclude`.
        """
        self._shard_sets, self._data, self._image_size = shard_sets, data, sizes.image_size
        self._share, self.split = share, data.split
        self.rows_per_step, self.rows_per_micro_batch = (
            batch.rows_per_step,
            batch.rows_per_micro_batch,
        )
        self._arguments = plan_arguments(data, seed=run.seed, sizes=sizes)
        self.exclude_history = exclude_history or start_exclude_history(data)
        self.loader = self._make_loader(
            self._arguments,
            rows_per_step=self.rows_per_step,
            exclude_history=self.exclude_history,
        )
        self.total_steps = count_steps(
            self.loader, rows_per_step=self.rows_per_step, steps=run.steps, epochs=run.epochs
        )
        self.steps_done = 0
        self._batches: Iterator[Batch] | None = None
        self._costs_before = self.loader.metrics()

    def read_step(self) -> Iterator[Batch]:
        """Yield this rank's micro-batches of the next step, equally many on all ranks."""
        if self._batches is None:
            self._batches = iter(self.loader)
        return itertools.islice(self._batches, self.loader.micro_batches_per_step)

    def count_rows_of_step(self) -> int:
        """Return the rows of the first unfinished step, over all ranks; none is zero-weight."""
        return len(self.loader.cursor.next_step())

    def finish_step(self) -> None:
        """Count the step whose batches were just used; only counted steps enter the state."""
        self.loader.finish_step()
        self.steps_done += 1

    def reading_costs(self) -> dict[str, float]:
        """Return what reading has cost this process since the last call, for the log.

        The time spent waiting is logged apart, as a share of the step.
        """
        before, self._costs_before = self._costs_before, self.loader.metrics()
        since: dict[str, float] = {
            what: round(now - before[what], 3)
            for what, now in self._costs_before.items()
            if what != "waiting_s"
        }
        skipped = self.loader.num_skipped[self.loader.epoch]
        return since | ({"skipped_samples": skipped} if skipped else {})

    def state(self) -> dict[str, Any]:
        """Return where to resume; valid for any world size and micro-batch."""
        return self.loader.state_dict()

    def resume(self, state: dict[str, Any], *, steps_done: int) -> None:
        """Resume from a saved state. Raises ValueError if it belongs to another plan."""
        self.loader.load_state_dict(state)
        self.steps_done = steps_done

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of the training split, equal on all ranks."""
        return self.loader.index.sources

    def heldout_loader(self) -> Loader:
        """Return the loader of the eval split: each sample once, for any mix and any ranks."""
        arguments = replace(
            self._arguments,
            split=self._data.eval_split,
            mix=(),  # each sample once
            set_weights=(),
            tail="pad",
        )
        rows = self._share.world_size * self.rows_per_micro_batch
        return self._make_loader(arguments, rows_per_step=rows)

    def heldout_batches(self, loader: Loader) -> Iterator[Batch]:
        """Yield this rank's micro-batches of the first epoch of a held-out loader."""
        rows = self._share.world_size * self.rows_per_micro_batch
        num_steps = loader.plan(0).num_steps(rows)
        return itertools.islice(loader, num_steps * loader.micro_batches_per_step)

    def find_unknown_keys(self) -> list[str]:
        """Return the keys of `data.exclude` that no sample of any split has."""
        keys = self._arguments.exclude
        return find_unknown_keys(keys, shard_sets=self._shard_sets) if keys else []

    def describe_unknown_keys(self) -> str | None:
        """Return one line that counts and names `find_unknown_keys`, or None."""
        unknown, num_keys = self.find_unknown_keys(), len(self._arguments.exclude)
        name = f"data.exclude = {self._data.exclude}"
        return describe_unknown_keys(unknown, num_keys=num_keys, name=name) if unknown else None

    def _make_loader(
        self,
        arguments: PlanArguments,
        *,
        rows_per_step: int,
        exclude_history: ExcludeHistory | None = None,
    ) -> Loader:
        return Loader(
            self._shard_sets,
            arguments,
            rows_per_step=rows_per_step,
            rows_per_micro_batch=self.rows_per_micro_batch,
            rank=self._share.rank,
            world_size=self._share.world_size,
            ranks_per_node=self._share.ranks_per_node,
            on_fault=self._data.on_fault,
            max_skipped=self._data.max_skipped,
            image_size=self._image_size,
            pin_memory=torch.cuda.is_available(),
            plan_folder=default_plan_folder(),
            exclude_history=exclude_history,
        )


def open_run_shards(data: DataConfig, *, storage: StorageConfig) -> list[ShardSet]:
    """Open the shard sets of a run.

    Raises:
        ValueError: one is not finished, or they differ in tokenizer or template.
    """
    first, *others = (open_shards(shards.path, storage=storage) for shards in data.sets)
    for other in others:
        check_same_language(first, other)
    return [first, *others]


def plan_arguments(data: DataConfig, *, seed: int, sizes: ModelSizes) -> PlanArguments:
    """Return what defines the plans of the training split; the loader counts the epochs itself."""
    return PlanArguments(
        split=data.split,
        seed=seed,
        epoch=0,
        tokens_per_row=data.tokens_per_row,
        images_per_row=data.images_per_row,
        positions_per_image=sizes.grid.positions_per_input,
        tiling=sizes.grid.tiling,
        shuffle_window_shards=data.shuffle_window_shards,
        lanes=data.lanes,
        balanced_rows=data.balanced_rows,
        mix=data.mix,
        set_weights=data.set_weights,
        exclude=read_exclude_list(data),
        on_too_long=data.on_too_long,
        tail=data.tail,
    )


def read_exclude_list(data: DataConfig) -> tuple[str, ...]:
    """Return the keys of `data.exclude`."""
    return read_keys(data.exclude) if data.exclude else ()


def start_exclude_history(data: DataConfig) -> ExcludeHistory:
    """Return the history in which all epochs have the list of `data.exclude`."""
    return ExcludeHistory(lists=((0, read_exclude_list(data)),))


def count_steps(
    loader: Loader, *, rows_per_step: int, steps: int | None, epochs: int | None
) -> int:
    """Return the optimizer steps of a run of so many steps, or of so many epochs."""
    if steps is not None:
        return steps
    assert epochs is not None  # OutputConfig checks it
    return sum(loader.plan(epoch).num_steps(rows_per_step) for epoch in range(epochs))
