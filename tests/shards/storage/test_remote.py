"""Shards behind a URL: every byte as in the folder, or a typed error; never a silent short read."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest

from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.remote import RemoteStore
from vchat.shards.storage.retries import retry_pauses
from vchat.shards.storage.store import ShardError
from vchat_testing.fault_proxy import start_proxy
from vchat_testing.range_server import FolderServer, serve_folder
from vchat_testing.s3_server import Bucket
from vchat_testing.toy import toy_shards


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("remote") / "set", num_samples=12)


@pytest.fixture
def served(shard_set: ShardSet):  # type: ignore[no-untyped-def]
    with serve_folder(shard_set.folder) as served:
        yield served


def store_at(served: FolderServer) -> RemoteStore:
    return RemoteStore(served.url, storage=StorageConfig(timeout_s=5.0))


def test_ranges_equal_the_file(shard_set: ShardSet, served: FolderServer) -> None:
    data = (shard_set.folder / "train-000000.tar").read_bytes()
    store = store_at(served)
    assert store.size("train-000000.tar") == len(data)
    for start, end in ((0, 1), (512, 2048), (len(data) - 7, len(data)), (5, 5)):
        assert store.read("train-000000.tar", start, end) == data[start:end]


def test_a_missing_object_is_requested_once(served: FolderServer, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar at byte 0"):
        store_at(served).read("gone.tar", 0, 10)
    with pytest.raises(ValueError, match=r"no manifest.json under http://127.0.0.1:\d+/nowhere"):
        open_shards(f"{served.url}/nowhere")


def test_an_object_that_is_replaced_is_an_error(served: FolderServer) -> None:
    store = store_at(served)
    store.read("train-000000.tar", 0, 100)
    served.etag = '"2"'
    with pytest.raises(ShardError, match=r"train-000000\.tar at byte 100: .*object was replaced"):
        store.read("train-000000.tar", 100, 200)


def test_another_process_connects_anew(served: FolderServer) -> None:
    store = pickle.loads(pickle.dumps(store_at(served)))  # noqa: S301
    assert len(store.read("train-000000.tar", 0, 10)) == 10


def test_use_after_a_fork_is_an_error(
    served: FolderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(served)
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="use threads, or start processes with spawn"):
        store.read("train-000000.tar", 0, 10)


def test_an_object_of_another_size_than_the_manifest_says_is_an_error(served: FolderServer) -> None:
    store = RemoteStore(served.url, sizes={"train-000000.tar": 1000})
    with pytest.raises(ShardError, match=r"has \d+ bytes, manifest\.json says 1000"):
        store.read("train-000000.tar", 0, 10)


def test_pauses_double_up_to_ten_seconds_and_add_up_to_the_limit() -> None:
    assert list(retry_pauses(0)) == []
    assert list(retry_pauses(2.0)) == pytest.approx([0.2, 0.4, 0.8, 0.6])
    assert max(retry_pauses(500.0)) == 10.0
    assert sum(retry_pauses(500.0)) == pytest.approx(500.0)


@pytest.mark.parametrize("url", ["ftp://host/set", "s4://bucket/set", "s3://"])
def test_a_url_that_no_client_knows_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(ValueError, match=rf"{url}: .*; wanted s3://, gs://, az://"):
        open_shards(url)


@pytest.mark.parametrize(
    "url", ["https://user:secret@host/set", "https://host/set?sig=secret", "s3://a:secret@b/set"]
)
def test_a_url_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="give keys through the environment") as error:
        open_shards(url)
    assert "secret" not in str(error.value)


def test_put_replaces_an_object_that_this_store_has_read(s3: Bucket, tmp_path: Path) -> None:
    store = RemoteStore(s3.url)
    (tmp_path / "log").write_bytes(b"one line\n")
    store.put("run/log", tmp_path / "log")
    assert store.read("run/log", 0, 3) == b"one"
    (tmp_path / "log").write_bytes(b"one line\ntwo lines\n")
    store.put("run/log", tmp_path / "log")
    assert store.read_all("run/log") == b"one line\ntwo lines\n"


def test_a_large_file_is_put_whole_although_storage_fails_now_and_then(
    s3: Bucket, tmp_path: Path
) -> None:
    data = random.Random(0).randbytes(12_000_000)
    (tmp_path / "large").write_bytes(data)
    with start_proxy(s3.endpoint) as proxy:
        proxy.fault_of = lambda path, number: "503" if number % 3 == 1 else None
        store = RemoteStore(s3.url, storage=StorageConfig(endpoint=proxy.url))
        store.put("large", tmp_path / "large")
    assert s3.contents("")["large"] == data


def test_put_names_the_object_that_storage_refuses(s3: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with start_proxy(s3.endpoint) as proxy:
        proxy.fault_of = lambda path, number: "denied"
        store = RemoteStore(s3.url, storage=StorageConfig(endpoint=proxy.url))
        with pytest.raises(ShardError, match=r"run/file at byte 0: s3://"):
            store.put("run/file", tmp_path / "file")


def test_removing_is_final_and_may_be_repeated(s3: Bucket) -> None:
    s3.put("run/file", b"data")
    store = RemoteStore(s3.url)
    for _ in range(2):
        store.remove("run/file")
        assert store.size_if_there("run/file") is None
