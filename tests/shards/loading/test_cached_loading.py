"""A loader reads whole shards from the cache, and downloads none of them twice."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vchat.base.locks import lock_folder
from vchat.shards.format.open_shards import open_remote_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.loader import Loader
from vchat.shards.loading.raw_samples import RawSamples
from vchat.shards.storage.cache import size_or_zero
from vchat.shards.storage.cached_store import CachedStore
from vchat.shards.storage.config import StorageConfig
from vchat_testing.range_server import FolderServer, serve_folder
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import toy_arguments, toy_loader


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """24 samples in shards of 3."""
    folder = tmp_path_factory.mktemp("cached") / "set"
    return toy_shards(folder, num_samples=24, samples_per_shard=3)


@pytest.fixture
def served(shard_set: ShardSet) -> Iterator[FolderServer]:
    with serve_folder(shard_set.folder) as served:
        yield served


def shard_bytes(shard_set: ShardSet) -> list[int]:
    return [s["bytes"] for s in shard_set.manifest["shards"] if s["split"] == "train"]


def loader(shards: ShardSet, *, window: int = 2, **changes: object) -> Loader:
    arguments = toy_arguments(shuffle_window_shards=window, lanes=1)
    return toy_loader(shards, arguments, rows_per_step=1, **changes)


def remote(served: FolderServer, tmp_path: Path, *, cache_bytes: int) -> ShardSet:
    storage = StorageConfig(cache=tmp_path / "cache", cache_bytes=cache_bytes, retry_for_s=1.0)
    return open_remote_shards(served.url, copies=tmp_path / "sets", storage=storage)


def epoch_keys(loader: Loader, *, epochs: int = 1) -> list[str]:
    steps = sum(loader.plan(epoch).num_steps(1) for epoch in range(epochs))
    return [key for batch in itertools.islice(loader, steps) for row in batch.keys for key in row]


def test_once_the_cache_has_every_shard_nothing_is_requested(
    shard_set: ShardSet, served: FolderServer, tmp_path: Path
) -> None:
    shards = remote(served, tmp_path, cache_bytes=1 << 30)
    wanted = sorted(shard_set.index("train")["key"].to_pylist())
    store = shards.store
    assert isinstance(store, CachedStore)
    names = [s["name"] for s in shards.manifest["shards"] if s["split"] == "train"]
    for _ in loader(shards, prefetch_rows=1):
        if all(store.is_local(name) for name in names):
            break
        time.sleep(0.05)
    asked = served.requests.copy()
    before = store.metrics.totals()
    assert sorted(epoch_keys(loader(shards), epochs=2)) == sorted(2 * wanted)
    assert served.requests == asked
    used = store.metrics.totals()
    assert used["cache_hits"] - before["cache_hits"] >= 2 * 24  # some for what was prefetched
    assert used["requests"] == before["requests"]


def test_two_loaders_of_a_machine_share_the_cache(
    shard_set: ShardSet, served: FolderServer, tmp_path: Path
) -> None:
    ranks = [
        loader(
            remote(served, tmp_path, cache_bytes=1 << 30), rank=rank, world_size=2, ranks_per_node=2
        )
        for rank in range(2)
    ]
    keys: list[list[str]] = [[], []]
    threads = [
        threading.Thread(target=lambda rank=rank: keys[rank].extend(epoch_keys(ranks[rank])))
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys[0] + keys[1]) == sorted(shard_set.index("train")["key"].to_pylist())
    fetched = {path.name for path in (tmp_path / "cache").iterdir()}
    assert fetched <= {shard["sha256"] for shard in shard_set.manifest["shards"]}


def test_a_small_cache_stays_within_its_bound_over_the_epoch(
    shard_set: ShardSet, served: FolderServer, tmp_path: Path
) -> None:
    limit = 2 * max(shard_bytes(shard_set))
    shards = remote(served, tmp_path, cache_bytes=limit)
    most = 0
    keys = []
    steps = loader(shards).plan(0).num_steps(1)
    for batch in itertools.islice(loader(shards, prefetch_rows=1), steps):
        keys += [key for row in batch.keys for key in row]
        time.sleep(0.05)
        with lock_folder(tmp_path / "cache"):
            most = max(most, sum(size_or_zero(path) for path in (tmp_path / "cache").glob("*")))
    assert sorted(keys) == sorted(shard_set.index("train")["key"].to_pylist())
    assert 0 < most <= limit


def raw_keys(shards: ShardSet) -> list[str]:
    samples = RawSamples(shards, toy_arguments(shuffle_window_shards=2, lanes=1))
    return [json.loads(sample["json"])["key"] for sample in samples]


def read_keys(shards: ShardSet) -> list[str]:
    entries = shards.index("train").to_pylist()
    return [shards.read_sample(entry).key for entry in entries]


@pytest.mark.parametrize("reader", [lambda shards: epoch_keys(loader(shards)), raw_keys, read_keys])
def test_every_reader_reads_a_wrong_byte_in_the_cache_again_from_the_source(
    shard_set: ShardSet,
    served: FolderServer,
    tmp_path: Path,
    reader: Callable[[ShardSet], list[str]],
) -> None:
    shards = remote(served, tmp_path, cache_bytes=1 << 30)
    (tmp_path / "cache").mkdir(exist_ok=True)
    for shard in shard_set.manifest["shards"]:
        data = bytearray((shard_set.folder / shard["name"]).read_bytes())
        data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
        (tmp_path / "cache" / shard["sha256"]).write_bytes(data)
    assert sorted(reader(shards)) == sorted(shard_set.index("train")["key"].to_pylist())
