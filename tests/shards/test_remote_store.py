"""Shards behind a URL: every byte as in the folder, or a typed error; never a silent short read."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import pytest
from range_server import Fault, Served, serving
from toy import toy_shards
from vchat.shards.loader import Loader
from vchat.shards.manifest import ShardSet, open_shards
from vchat.shards.plan_arguments import PlanArguments
from vchat.shards.remote_set import open_remote
from vchat.shards.remote_store import ATTEMPTS, RemoteStore
from vchat.shards.store import ShardError


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("remote") / "set", num_samples=12)


@pytest.fixture
def served(shard_set: ShardSet):  # type: ignore[no-untyped-def]
    with serving(shard_set.folder) as served:
        yield served


def store_at(served: Served) -> RemoteStore:
    return RemoteStore(served.url, timeout_s=5.0, pause=lambda seconds: None)


def loaded_keys(shards: ShardSet, *, threads: int | None = None) -> list[str]:
    arguments = PlanArguments(
        split="train",
        seed=1,
        epoch=0,
        tokens_per_row=400,
        images_per_row=8,
        positions_per_image=5,
        shuffle_window_shards=2,
    )
    loader = Loader(shards, arguments, rows_per_step=2, image_size=32, threads=threads)
    num_batches = loader.plan(0).num_steps(2) * loader.micro_batches_per_step
    batches = itertools.islice(loader, num_batches)
    return [key for batch in batches for row in batch.keys for key in row]


def test_ranges_equal_the_file(shard_set: ShardSet, served: Served) -> None:
    data = (shard_set.folder / "train-000000.tar").read_bytes()
    store = store_at(served)
    assert store.size("train-000000.tar") == len(data)
    for start, end in ((0, 1), (512, 2048), (len(data) - 7, len(data)), (5, 5)):
        assert store.read("train-000000.tar", start, end) == data[start:end]


def test_a_set_behind_a_url_is_read_like_a_folder(
    shard_set: ShardSet, served: Served, tmp_path: Path
) -> None:
    remote = open_remote(served.url, copies=tmp_path)
    assert remote.index("train").equals(shard_set.index("train"))
    assert remote.tokenizer().fingerprint == shard_set.tokenizer().fingerprint
    assert loaded_keys(remote) == loaded_keys(shard_set)
    asked = served.requests["/tokenizer/tokenizer.json"]
    open_remote(served.url, copies=tmp_path)
    assert served.requests["/tokenizer/tokenizer.json"] == asked


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flip", "early"])
def test_a_fault_of_every_other_request_is_overcome(
    shard_set: ShardSet, served: Served, tmp_path: Path, fault: Fault
) -> None:
    remote = open_remote(served.url, copies=tmp_path)
    served.fault_of = lambda name, number: fault if number % 2 == 0 else None
    keys = loaded_keys(remote, threads=1)
    assert sorted(keys) == sorted(shard_set.index("train")["key"].to_pylist())


@pytest.mark.parametrize("fault", ["503", "short"])
def test_a_fault_that_stays_is_an_error_that_says_where(served: Served, fault: Fault) -> None:
    served.fault_of = lambda name, number: fault
    with pytest.raises(ShardError, match=r"train-000000.tar at byte 512 \(sample toy/0\)") as error:
        store_at(served).read("train-000000.tar", 512, 1024, key="toy/0")
    assert (error.value.shard, error.value.offset, error.value.key) == (
        "train-000000.tar",
        512,
        "toy/0",
    )
    assert served.requests["/train-000000.tar"] >= ATTEMPTS


def test_what_is_not_there_is_asked_for_once(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar at byte 0"):
        store_at(served).read("gone.tar", 0, 10)
    with pytest.raises(ValueError, match=r"no manifest.json under http://127.0.0.1:\d+/nowhere"):
        open_shards(f"{served.url}/nowhere")


def test_an_object_that_is_replaced_is_an_error(served: Served) -> None:
    store = store_at(served)
    store.read("train-000000.tar", 0, 100)
    served.etag = '"2"'
    with pytest.raises(ShardError, match=r"train-000000\.tar at byte 100"):
        store.read("train-000000.tar", 100, 200)


def test_a_manifest_cannot_write_outside_the_copies(shard_set: ShardSet, tmp_path: Path) -> None:
    hostile = json.loads((shard_set.folder / "manifest.json").read_text())
    hostile["index"][0]["name"] = "../../../evil"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.json").write_text(json.dumps(hostile))
    with serving(tmp_path / "set") as served, pytest.raises(ValueError, match="plain file name"):
        open_remote(served.url, copies=tmp_path / "copies")


def test_another_process_connects_anew(served: Served) -> None:
    store = pickle.loads(pickle.dumps(store_at(served)))  # noqa: S301
    assert len(store.read("train-000000.tar", 0, 10)) == 10


def test_use_after_a_fork_is_an_error(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(served)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="use threads, or start processes with spawn"):
        store.read("train-000000.tar", 0, 10)
