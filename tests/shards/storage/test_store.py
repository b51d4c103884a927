"""Ranged reads from a folder: exact bytes, or an error that says where."""

from pathlib import Path

import pytest

from vchat.shards.storage.store import MAX_OPEN_FILES, LocalStore, ShardError


@pytest.fixture
def store(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(range(100)))
    return LocalStore(tmp_path)


def test_a_read_gives_exactly_the_range(store):
    assert store.read("a.tar", 10, 13) == bytes([10, 11, 12])
    assert store.read("a.tar", 0, 100) == bytes(range(100))
    assert store.read("a.tar", 5, 5) == b""


def test_size_is_that_of_the_file(store):
    assert store.size("a.tar") == 100


@pytest.mark.parametrize(
    "name, start, end, message",
    [
        ("a.tar", 90, 101, r"a\.tar at byte 90: got 10 bytes, wanted 11: .*trunc"),
        ("a.tar", 200, 201, r"a\.tar at byte 200: got 0 bytes, wanted 1"),
        ("b.tar", 7, 8, r"b\.tar at byte 7: No such file"),
        (".", 0, 1, r"\. at byte 0: '\.' is no name of a file in"),
    ],
)
def test_a_read_that_cannot_be_whole_names_shard_and_offset(store, name, start, end, message):
    with pytest.raises(ShardError, match=message) as error:
        store.read(name, start, end)
    assert (error.value.shard, error.value.offset) == (name, start)


def test_the_size_of_a_missing_file_is_an_error(store):
    with pytest.raises(ShardError, match=r"b\.tar at byte 0: no file"):
        store.size("b.tar")


def test_a_file_is_opened_anew_after_a_read_that_failed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    path = tmp_path / "a.tar"
    path.write_bytes(b"0123456789")
    assert store.read("a.tar", 2, 5) == b"234"
    path.write_bytes(b"01")
    with pytest.raises(ShardError, match="truncated"):
        store.read("a.tar", 2, 5)
    aside = tmp_path / "aside"
    aside.write_bytes(b"abcdefghij")
    aside.rename(path)
    assert store.read("a.tar", 2, 5) == b"cde"


def test_prefetching_missing_bytes_is_no_error_until_they_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.prefetch("a.tar", 0, 5)
    with pytest.raises(ShardError, match="No such file"):
        store.read("a.tar", 0, 5)


def test_more_files_than_stay_open_can_be_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    names = [f"{number}.tar" for number in range(MAX_OPEN_FILES + 9)]
    for name in names:
        (tmp_path / name).write_text(name)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in names * 2:
        assert store.read(name, 0, len(name)) == name.encode()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + MAX_OPEN_FILES
