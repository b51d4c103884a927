"""A real S3 server behind faults: every sample exactly once and intact, or a typed error."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from vchat.base.files import write_atomically
from vchat.shards.format.open_shards import open_shards
from vchat.shards.format.shard_set import ShardSet
from vchat.shards.loading.collate import Batch
from vchat.shards.storage.config import StorageConfig
from vchat.shards.storage.credentials import FileCredentials
from vchat.shards.storage.store import ShardError, UnreachableError
from vchat_testing.fault_proxy import FAULTS, Fault, Proxy, start_proxy
from vchat_testing.s3_server import ACCESS_KEY, SECRET_KEY, Bucket, new_bucket
from vchat_testing.toy import toy_shards
from vchat_testing.toy_loading import are_equal, first_epoch, toy_loader

PASSING: tuple[Fault, ...] = tuple(f for f in FAULTS if f not in ("expired", "denied"))


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return toy_shards(tmp_path_factory.mktemp("faults") / "set", num_samples=24)


@pytest.fixture(scope="module")
def intact(shard_set: ShardSet) -> list[Batch]:
    return first_epoch(toy_loader(shard_set))


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str, shard_set: ShardSet) -> Bucket:
    """A bucket that holds the set, under `set/`."""
    bucket = new_bucket(s3_endpoint)
    bucket.put_folder(shard_set.folder, "set")
    return bucket


@pytest.fixture
def proxy(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, and the keys in the environment."""
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with start_proxy(bucket.endpoint) as proxy:
        yield proxy


def through(proxy: Proxy, bucket: Bucket, tmp_path: Path, **changes: object) -> ShardSet:
    """Open the set through the proxy; its small files come without faults."""
    given = {"endpoint": proxy.url, "timeout_s": 0.5, "retry_for_s": 60.0, "cache": tmp_path / "c"}
    return open_shards(f"{bucket.url}/set", storage=StorageConfig(**(given | changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("cached", [False, True], ids=["ranges", "whole shards"])
@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_of_the_first_two_requests_for_each_shard_is_overcome(
    proxy: Proxy, bucket: Bucket, intact: list[Batch], tmp_path: Path, fault: Fault, cached: bool
) -> None:
    remote = through(proxy, bucket, tmp_path, **({} if cached else {"cache": None}))
    proxy.fault_of = lambda path, number: fault if number < 2 else None
    assert are_equal(first_epoch(toy_loader(remote)), intact)
    assert proxy.shown[fault] > 0


@pytest.mark.parametrize("fault", ["503", "short", "flip", "denied"])
def test_a_fault_that_stays_is_an_error_that_names_all(
    proxy: Proxy, bucket: Bucket, tmp_path: Path, fault: Fault
) -> None:
    remote = through(proxy, bucket, tmp_path, retry_for_s=0.5, cache=None)
    proxy.fault_of = lambda path, number: fault
    with pytest.raises(ShardError, match=r"train-0.* \(sample toy.* of source toy2?\): ") as error:
        first_epoch(toy_loader(remote))
    found = error.value
    assert found.shard.startswith("train-")
    assert found.offset > 0
    assert found.key.startswith(found.source)
    assert isinstance(found, UnreachableError) == (fault != "flip")


def test_a_key_that_is_revoked_is_read_anew_from_its_file(
    proxy: Proxy,
    bucket: Bucket,
    intact: list[Batch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(credentials(ACCESS_KEY))
    remote = through(proxy, bucket, tmp_path, credentials_file=file, cache=None)
    remote.store = pickle.loads(pickle.dumps(remote.store))  # noqa: S301  (connects anew)
    file.write_text(credentials("an-old-key"))
    proxy.key_in_use = ACCESS_KEY

    def renew_key(path: str, number: int) -> None:
        with write_atomically(file) as whole:  # another thread may be reading it
            whole.write(credentials(ACCESS_KEY).encode())

    proxy.fault_of = renew_key
    assert are_equal(first_epoch(toy_loader(remote)), intact)
    assert proxy.shown["expired"] > 0


@pytest.mark.parametrize("text", ["", "[default]\naws_access_key_id = k\n", "no section"])
def test_a_credentials_file_without_keys_is_an_error_that_names_it(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "credentials").write_text(text)
    with pytest.raises(ValueError, match=r"credentials_file .*credentials: wanted \[default\]"):
        FileCredentials(tmp_path / "credentials")()


def credentials(key: str) -> str:
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n"
