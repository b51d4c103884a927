"""The stages of a pass over a loader: bounded, in order, and gone when nobody iterates."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vchat.shards.loading.batch_iterator import PendingBatch, keep_ahead
from vchat.shards.loading.loader import Loader
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import toy_loader


def pending_batch(num_bytes: int, *, num_rows: int) -> PendingBatch:
    nothing: Any = None
    return PendingBatch(nothing, nothing, [Future() for _ in range(num_rows)], num_bytes)


@given(
    sizes=st.lists(st.integers(0, 50), max_size=20),
    num_rows=st.integers(1, 4),
    max_rows=st.integers(1, 12),
    max_bytes=st.integers(1, 200),
)
def test_a_bounded_number_of_batches_is_started_ahead_and_comes_in_order(
    sizes: list[int], num_rows: int, max_rows: int, max_bytes: int
) -> None:
    started: list[PendingBatch] = []

    def start() -> Iterator[PendingBatch]:
        for size in sizes:
            started.append(pending_batch(size, num_rows=num_rows))
            yield started[-1]

    done: list[PendingBatch] = []
    for batch in keep_ahead(start(), max_rows=max_rows, max_bytes=max_bytes):
        done.append(batch)
        before_newest = started[len(done) - 1 : -1]  # limits hold before the newest was added
        assert len(before_newest) * num_rows < max_rows
        assert sum(one.num_bytes for one in before_newest) < max_bytes
    assert done == started
    assert len(started) == len(sizes)


def loading_threads() -> set[str]:
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if name.startswith(("vchat-decoding", "vchat-ranges"))}


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    shard_set = toy_shards(tmp_path / "set", num_samples=12, samples_per_shard=4)
    return toy_loader(shard_set, rows_per_step=1)


def test_an_iterator_that_nobody_holds_leaves_no_threads(loader: Loader) -> None:
    stream = iter(loader)
    next(stream)
    assert loading_threads()
    del stream
    assert not loading_threads()


def test_two_passes_over_one_loader_do_not_disturb_each_other(loader: Loader) -> None:
    first, second = iter(loader), iter(loader)
    keys = [(next(first).keys, next(second).keys) for _ in range(3)]
    assert [one for one, _ in keys] == [other for _, other in keys]
