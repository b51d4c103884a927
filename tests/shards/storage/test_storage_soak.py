"""Long tests of storage: a server that is killed in mid-epoch, and every fault at every rate."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import Batch
from vchat.shards.loading.loader import Loader
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.store import ShardError
from vchat_testing.fault_proxy import FAULTS, Fault, start_proxy
from vchat_testing.s3_server import Bucket, free_ports, new_bucket, serve_s3
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import toy_arguments, toy_loader

WORLD, WORKERS = 2, 2
ROWS_PER_STEP = 2
PAUSE_S = 0.05
"""Between batches, so that an epoch outlives the server."""


def loader_of(shards: ShardSet, *, rank: int = 0, world: int = 1) -> Loader:
    return toy_loader(
        shards,
        toy_arguments(shuffle_window_shards=4, lanes=WORLD),
        rows_per_step=ROWS_PER_STEP,
        rank=rank,
        world_size=world,
        ranks_per_node=world,
        prefetch_rows=4,
    )


def contents(batches: Iterator[Batch]) -> dict[str, str]:
    """Return a digest of the pixels, ids and labels of each row that has samples, by its keys."""
    found: dict[str, str] = {}
    for batch in batches:
        first_image = 0
        for row, keys in enumerate(batch.keys):
            if not keys:
                continue
            digest = hashlib.sha256(batch.token_ids[row].numpy().tobytes())
            digest.update(batch.labels[row].numpy().tobytes())
            num_images = sum(int(key.split("/")[1]) % 4 for key in keys)
            digest.update(batch.pixels[first_image : first_image + num_images].numpy().tobytes())
            first_image += num_images
            name = " ".join(keys)
            assert name not in found, f"{name} was delivered twice"
            found[name] = digest.hexdigest()
        assert first_image == len(batch.pixels)
    return found


def read_as_rank(rank: int, url: str, cache: str, out: str, begun: object) -> None:
    """Read an epoch through worker processes, slowly, and write what came."""
    storage = StorageConfig(cache=Path(cache) if cache else None, timeout_s=5.0, retry_for_s=120.0)
    loader = loader_of(open_shards(url, storage=storage), rank=rank, world=WORLD)
    num_batches = loader.plan(0).num_steps(ROWS_PER_STEP) * loader.micro_batches_per_step
    workers = DataLoader(
        loader, batch_size=None, num_workers=WORKERS, multiprocessing_context="spawn"
    )

    def slowly() -> Iterator[Batch]:
        for batch in itertools.islice(workers, num_batches):
            begun.set()  # type: ignore[attr-defined]
            time.sleep(PAUSE_S)
            yield batch

    Path(out).write_text(json.dumps(contents(slowly())))


@pytest.mark.soak
@pytest.mark.parametrize("cached", [False, True], ids=["ranges", "whole shards"])
def test_an_epoch_outlives_a_server_that_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    local = toy_shards(
        tmp_path / "set",
        num_samples=600,
        images_per_sample=lambda number: number % 4,
        samples_per_shard=40,
    )
    (tmp_path / "s3").mkdir()
    ports = free_ports(5)
    context = multiprocessing.get_context("spawn")
    begun = [context.Event() for _ in range(WORLD)]
    outs = [tmp_path / f"rank-{rank}.json" for rank in range(WORLD)]
    with serve_s3(tmp_path / "s3", ports=ports) as endpoint:
        bucket = new_bucket(endpoint)
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        bucket.put_folder(local.folder, "set")
        cache = str(tmp_path / "cache") if cached else ""
        ranks = [
            context.Process(
                target=read_as_rank,
                args=(rank, f"{bucket.url}/set", cache, str(outs[rank]), begun[rank]),
            )
            for rank in range(WORLD)
        ]
        for process in ranks:
            process.start()
        assert all(event.wait(120) for event in begun)
        time.sleep(1.0)
    time.sleep(3.0)
    assert all(process.is_alive() for process in ranks), "the epoch was over before the kill"
    assert not any(out.exists() for out in outs)
    with serve_s3(tmp_path / "s3", ports=ports):
        for process in ranks:
            process.join(300)
            assert process.exitcode == 0
    found = [json.loads(out.read_text()) for out in outs]
    assert not set(found[0]) & set(found[1])
    steps = loader_of(local).plan(0).num_steps(ROWS_PER_STEP)
    alone = loader_of(local)
    wanted = contents(itertools.islice(alone, steps * alone.micro_batches_per_step))
    assert found[0] | found[1] == wanted


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(
        tmp_path_factory.mktemp("soak") / "set",
        num_samples=60,
        images_per_sample=lambda number: number % 4,
        samples_per_shard=12,
    )


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, shard_set: ShardSet) -> Bucket:
    bucket = new_bucket(s3_endpoint)
    bucket.put_folder(shard_set.folder, "set")
    return bucket


@pytest.mark.soak
@pytest.mark.parametrize("cached", [False, True], ids=["ranges", "whole shards"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("fault", [*FAULTS, "any"])
def test_at_any_rate_of_faults_samples_are_intact_or_there_is_a_typed_error(
    bucket: Bucket,
    shard_set: ShardSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    share: float,
    cached: bool,
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    wanted = contents(one_epoch(loader_of(shard_set)))
    rng, lock = random.Random(f"{fault} {share} {cached}"), threading.Lock()

    def drawn(path: str, number: int) -> Fault | None:
        if not path.endswith(".tar"):
            return None
        with lock:
            chosen = rng.choice(FAULTS) if fault == "any" else fault
            return chosen if rng.random() < share else None

    with start_proxy(bucket.endpoint) as proxy:
        proxy.fault_of = drawn
        storage = StorageConfig(
            endpoint=proxy.url,
            timeout_s=0.3,
            retry_for_s=3.0,
            cache=tmp_path / "cache" if cached else None,
        )
        shards = open_shards(f"{bucket.url}/set", storage=storage)
        found, error = delivered(loader_of(shards))
    assert found.items() <= wanted.items()
    if error is None:
        assert found.keys() == wanted.keys()
        return
    assert error.key in shard_set.index("train")["key"].to_pylist()
    assert error.source in ("toy", "toy2")
    assert share > 0.1 or fault in ("denied", "expired", "any"), error


def delivered(loader: Loader) -> tuple[dict[str, str], ShardError | None]:
    """Return the contents of the rows of an epoch up to the first error, and the error."""
    found: dict[str, str] = {}
    try:
        for batch in one_epoch(loader):
            found |= contents(iter([batch]))
    except ShardError as error:
        return found, error
    return found, None


def one_epoch(loader: Loader) -> Iterator[Batch]:
    steps = loader.plan(0).num_steps(ROWS_PER_STEP)
    return itertools.islice(loader, steps * loader.micro_batches_per_step)
