"""What readers need of the place where a shard set lies, and the store of a local folder.

Object storage is read by `remote.py`, through a disk cache by `cached_store.py`; `open_shards`
chooses between them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

from vchat.base.safe_paths import find_regular, open_regular
from vchat.shards.storage.metrics import Metrics

MAX_OPEN_FILES = 64
"""How many files a `LocalStore` keeps open; a window of an epoch has fewer shards."""


class ShardError(ValueError):
    """The bytes of a shard are missing, or not those that its index promises.

    Attributes:
        problem: What is wrong, without the location.
        shard: Name of the file in the shard set. Empty if the error comes out of a worker process
            of torch's DataLoader, which keeps only the text: then `problem` has the location.
        offset: First byte that was requested.
        key: Key of the sample that was read, or empty.
        source: Source of the sample that was read, or empty.
    """

    def __init__(
        self, problem: str, *, shard: str = "", offset: int = 0, key: str = "", source: str = ""
    ):
        of_source = f" of source {source}" if source else ""
        sample = f" (sample {key}{of_source})" if key else ""
        location = f"{shard} at byte {offset}{sample}: " if shard else ""
        super().__init__(f"{location}{problem}")
        self.problem = problem
        self.shard = shard
        self.offset = offset
        self.key = key
        self.source = source

    def with_sample(self, *, key: str, source: str, offset: int) -> ShardError:
        """Return the same error for a sample that begins at `offset`."""
        return type(self)(self.problem, shard=self.shard, offset=offset, key=key, source=source)


class UnreachableError(ShardError):
    """Storage did not give the bytes after all retries; another attempt is of no use."""


class MissingError(UnreachableError, FileNotFoundError):
    """There is no file of this name."""


class Store(Protocol):
    """The files of a shard set, by name. Safe to use from several threads."""

    num_readers: int
    """How many threads should read at once."""

    @property
    def metrics(self) -> Metrics:
        """The counts of what has been read."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, or raise ShardError."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return all bytes from `start` to `end` (exclusive), or raise ShardError."""

    def is_local(self, name: str) -> bool:
        """Whether a read costs no round trip over a network."""

    def invalidate(self, name: str) -> None:
        """Drop the copy of a file, if there is one: its bytes had a wrong checksum."""


class OpenFile:
    """A file descriptor, closed with the last reference to it."""

    def __init__(self, path: str | Path, *, folder: Path | None = None):
        """Open a file for reading, or raise OSError.

        Args:
            path: Of the file; with a `folder`, a name in it that is not trusted.
            folder: Which the file must not leave.
        """
        if folder is None:
            self.descriptor = os.open(path, os.O_RDONLY)
        else:
            self.descriptor = open_regular(folder, str(path))

    def __del__(self) -> None:
        if "descriptor" in self.__dict__:
            os.close(self.descriptor)


class LocalStore:
    """The files of one folder, read by byte range; safe to use from several threads.

    Files stay open. If one is replaced, the old content is read until a read of it fails.
    """

    num_readers = 2

    def __init__(self, folder: Path):
        self.folder = folder
        self.metrics = Metrics()
        self._open_file = lru_cache(MAX_OPEN_FILES)(partial(OpenFile, folder=folder))

    def __reduce__(self) -> tuple[type[LocalStore], tuple[Path]]:
        return LocalStore, (self.folder,)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            ShardError: There is no such file.
        """
        try:
            return find_regular(self.folder, name).stat().st_size
        except FileNotFoundError as error:
            raise MissingError(f"no file {self.folder / name}", shard=name, offset=0) from error
        except OSError as error:
            raise ShardError(str(error), shard=name, offset=0) from error

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file.

        Raises:
            ShardError: The file is missing, unreadable, or ends before `end`.
        """
        try:
            data = read_range(name, start, end, name=name, open_file=self._open_file)
        except ShardError:
            self.invalidate(name)
            raise
        self.metrics.count("disk_bytes", len(data))
        return data

    def prefetch(self, name: str, start: int, end: int) -> None:
        """Ask the system to bring a range into memory; returns at once and raises no error."""
        if hasattr(os, "posix_fadvise"):  # macOS has none
            with contextlib.suppress(OSError):
                file = self._open_file(name)
                os.posix_fadvise(file.descriptor, start, end - start, os.POSIX_FADV_WILLNEED)

    def is_local(self, name: str) -> bool:
        """Return True."""
        return True

    def invalidate(self, name: str) -> None:
        """Close all files, so that the next read opens them anew: one may have been replaced."""
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
        path: Of the file.
        start: First byte.
        end: Byte after the last.
        name: Of the shard, for errors.
        open_file: Returns the file, which may be open already.

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
