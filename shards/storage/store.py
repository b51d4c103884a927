"""Bytes by range from where a shard set lies: a local folder here, `remote_store.py` elsewhere.

Readers know only what `Store` says; `manifest.open_shards` chooses.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from vchat.shards.storage.metrics import Metrics

MAX_OPEN_FILES = 64
"""Shards that a folder's store keeps open; a window of an epoch has fewer."""


class ShardError(ValueError):
    """A shard cannot give what its index promises.

    Attributes:
        problem: What is wrong, without the place.
        shard: Name of the file in the shard set; empty, and the place part of the problem, if the
            error comes out of a worker process of torch's DataLoader, which keeps only its text.
        offset: First byte asked for.
        key: Key of the sample wanted, or empty.
        source: Source of the sample wanted, or empty.
    """

    def __init__(
        self, problem: str, *, shard: str = "", offset: int = 0, key: str = "", source: str = ""
    ):
        of_source = f" of source {source}" if source else ""
        wanted_by = f" (sample {key}{of_source})" if key else ""
        place = f"{shard} at byte {offset}{wanted_by}: " if shard else ""
        super().__init__(f"{place}{problem}")
        self.problem = problem
        self.shard = shard
        self.offset = offset
        self.key = key
        self.source = source

    def with_sample(self, *, key: str, source: str, offset: int) -> ShardError:
        """Return the same error, naming the sample that was wanted and where it begins."""
        return type(self)(self.problem, shard=self.shard, offset=offset, key=key, source=source)


class UnreachableError(ShardError):
    """Storage did not give the bytes, however often it was asked: asking again is no use."""


class MissingError(UnreachableError, FileNotFoundError):
    """There is no file of that name."""


class Store(Protocol):
    """Where the files of a shard set lie. Safe to use from several threads."""

    num_readers: int
    """How many threads keep it busy."""

    @property
    def metrics(self) -> Metrics:
        """What reading has cost."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, or raise ShardError."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive), all of them, or raise ShardError."""

    def is_local(self, name: str) -> bool:
        """Whether a read costs no round trip over a network."""

    def invalidate(self, name: str) -> None:
        """Hear that bytes of a file had a wrong checksum: a copy of it, if any, is dropped."""


class OpenFile:
    """A file descriptor that is closed when nobody refers to it any more."""

    def __init__(self, path: str | Path):
        """Open a file for reading, or raise OSError."""
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if "descriptor" in self.__dict__:
            os.close(self.descriptor)


class LocalStore:
    """Files of one folder, read by byte range; safe to use from several threads.

    Files stay open. One that is replaced is read on as it was, until a read of it fails.
    """

    num_readers = 2

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics = Metrics()
        self._open_file = lru_cache(MAX_OPEN_FILES)(OpenFile)

    def __reduce__(self) -> tuple[type[LocalStore], tuple[Path]]:
        return LocalStore, (self.folder,)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            ShardError: There is no such file.
        """
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError as error:
            raise MissingError(f"no file {self.folder / name}", shard=name, offset=0) from error

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file.

        Raises:
            ShardError: The file is missing, unreadable, or ends before `end`.
        """
        path = f"{self.folder}/{name}"
        try:
            data = read_range(path, start, end, name=name, open_file=self._open_file)
        except ShardError:
            self.invalidate(name)
            raise
        self.metrics.count("disk_bytes", len(data))
        return data

    def prefetch(self, name: str, start: int, end: int) -> None:
        """Let the system bring a range into memory, without waiting; a fault shows in the read."""
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with contextlib.suppress(OSError):
                file = self._open_file(f"{self.folder}/{name}")
                os.posix_fadvise(file.descriptor, start, end - start, os.POSIX_FADV_WILLNEED)

    def is_local(self, name: str) -> bool:
        """Yes."""
        return True

    def invalidate(self, name: str) -> None:
        """Open the files anew for the next read: this one may have been replaced."""
        self._open_file.cache_clear()


def read_range(
    path: str | Path,
    start: int,
    end: int,
    *,
    name: str,
    open_file: Callable[[str | Path], OpenFile] = OpenFile,
) -> bytes:
    """Return bytes `start` to `end` (exclusive) of a local file.

    Args:
        name: Of the shard, for errors.
        open_file: Gives the open file; it may have been opened before.

    Raises:
        ShardError: The file is missing, unreadable, or ends before `end`.
    """
    try:
        file = open_file(path)
        data = os.pread(file.descriptor, end - start, start)
    except OSError as error:
        problem = error.strerror or str(error)
        raise ShardError(problem, shard=name, offset=start) from error
    if len(data) != end - start:
        problem = f"got {len(data)} bytes, wanted {end - start}: the file is truncated"
        raise ShardError(problem, shard=name, offset=start)
    return data
