"""The cache of whole shards: nothing half, nothing wrong, never over its limit."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vchat.base.locks import lock_folder
from vchat.shards.storage.cache import ShardCache, size_or_zero


def shard(number: int, *, size: int = 100) -> tuple[str, bytes]:
    """Return the digest and the bytes of a made-up shard."""
    data = random.Random(number).randbytes(size)
    return hashlib.sha256(data).hexdigest(), data


def halves(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    yield data[len(data) // 2 :]


def filled(cache: ShardCache, number: int, *, size: int = 100) -> str:
    digest, data = shard(number, size=size)
    assert cache.fill(digest, size=size, parts=halves(data))
    return digest


def used_bytes(folder: Path) -> int:
    """Return the size of all files at one moment: it changes only under the lock of the folder."""
    with lock_folder(folder):
        return sum(size_or_zero(path) for path in folder.iterdir())


def test_an_entry_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit_bytes=1000)
    digest, data = shard(1)

    def watched() -> Iterator[bytes]:
        for part in halves(data):
            assert cache.look_up(digest) is None
            yield part

    assert cache.fill(digest, size=100, parts=watched())
    path = cache.look_up(digest)
    assert path is not None
    assert path.read_bytes() == data
    assert [found.name for found in tmp_path.iterdir()] == [digest]


@pytest.mark.parametrize("wrong", [b"", b"x" * 100, b"x" * 99, b"x" * 101])
def test_other_bytes_than_the_digest_names_leave_nothing(tmp_path: Path, wrong: bytes) -> None:
    cache = ShardCache(tmp_path, limit_bytes=1000)
    digest, _ = shard(1)
    with pytest.raises(ValueError, match=f"manifest.json says {digest}"):
        cache.fill(digest, size=100, parts=[wrong])
    assert not list(tmp_path.iterdir())


def test_the_entry_not_used_for_longest_is_evicted(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit_bytes=300)
    first, second, third = (filled(cache, number) for number in (1, 2, 3))
    for age, digest in ((30, first), (20, second), (10, third)):
        os.utime(tmp_path / digest, (time.time() - age,) * 2)
    cache.look_up(first)
    filled(cache, 4)
    assert cache.contains(first)
    assert not cache.contains(second)
    assert cache.contains(third)


def test_a_shard_larger_than_the_limit_is_not_cached(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit_bytes=99)
    digest, data = shard(1)
    asked = iter([data])
    assert not cache.fill(digest, size=100, parts=asked)
    assert next(asked) == data
    assert not list(tmp_path.iterdir())


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"x" * 1000)
    cache = ShardCache(tmp_path, limit_bytes=150)
    filled(cache, 1)
    filled(cache, 2)
    assert (tmp_path / "mine.txt").exists()


def test_an_entry_that_another_process_fills_is_left_alone(tmp_path: Path) -> None:
    cache, other = (ShardCache(tmp_path, limit_bytes=150) for _ in range(2))
    digest, data = shard(1)

    def meanwhile() -> Iterator[bytes]:
        assert not other.fill(digest, size=100, parts=iter(()))
        another, other_data = shard(2)
        assert not other.fill(another, size=100, parts=[other_data])  # both do not fit
        yield data

    assert cache.fill(digest, size=100, parts=meanwhile())
    assert [path.name for path in tmp_path.iterdir()] == [digest]


def fill_and_hang(folder: Path, started: object) -> None:
    digest, data = shard(1)

    def parts() -> Iterator[bytes]:
        yield data[:50]
        started.set()  # type: ignore[attr-defined]
        time.sleep(60)

    ShardCache(folder, limit_bytes=150).fill(digest, size=100, parts=parts())


@pytest.mark.parametrize("next_one", ["the same shard", "another shard"])
def test_a_process_killed_while_filling_leaves_nothing_in_the_way(
    tmp_path: Path, next_one: str
) -> None:
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=fill_and_hang, args=(tmp_path, started))
    process.start()
    assert started.wait(30)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    digest, _ = shard(1)
    cache = ShardCache(tmp_path, limit_bytes=150)
    assert cache.look_up(digest) is None
    digest = filled(cache, 1 if next_one == "the same shard" else 2)
    assert [path.name for path in tmp_path.iterdir()] == [digest]


def test_many_users_at_once_never_exceed_the_limit_or_read_wrong_bytes(tmp_path: Path) -> None:
    wrong: list[str] = []
    most = 0
    done = threading.Event()

    def work(seed: int) -> None:
        rng, cache = random.Random(seed), ShardCache(tmp_path, limit_bytes=350)
        for _ in range(40):
            number = rng.randrange(8)
            digest, data = shard(number)
            cache.fill(digest, size=100, parts=halves(data))
            path = cache.look_up(digest)
            try:
                if path is not None and path.read_bytes() != data:
                    wrong.append(digest)
            except FileNotFoundError:
                pass  # it was evicted since

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, used_bytes(tmp_path))
            time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert not wrong
    assert 100 <= most <= 350
    assert used_bytes(tmp_path) <= 350


@pytest.mark.parametrize("name", ["/home/user/thesis.txt", "../x", "", "A" * 64])
def test_a_cache_touches_no_file_that_is_not_named_by_a_digest(tmp_path, name):
    cache = ShardCache(tmp_path / "cache", limit_bytes=100)
    for call in (cache.look_up, cache.contains, cache.remove):
        with pytest.raises(ValueError, match="is no entry of a cache"):
            call(name)
