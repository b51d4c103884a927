"""Bytes by range from where a shard set lies: a local folder here, `remote_store.py` elsewhere.

Readers know only what `Store` says; `manifest.open_shards` chooses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class ShardError(ValueError):
    """A shard cannot give what its index promises.

    Attributes:
        shard: Name of the file in the shard set.
        offset: First byte asked for.
        key: Key of the sample wanted, or empty.
    """

    def __init__(self, problem: str, *, shard: str, offset: int, key: str = ""):
        wanted_by = f" (sample {key})" if key else ""
        super().__init__(f"{shard} at byte {offset}{wanted_by}: {problem}")
        self.shard = shard
        self.offset = offset
        self.key = key


class Store(Protocol):
    """Where the files of a shard set lie. Safe to use from several threads."""

    readers: int
    """How many threads keep it busy."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes, or raise ShardError."""

    def read(self, name: str, start: int, end: int, *, key: str = "") -> bytes:
        """Return bytes `start` to `end` (exclusive), all of them, or raise ShardError."""


class LocalStore:
    """Files of one folder, read by byte range; safe to use from several threads."""

    readers = 2

    def __init__(self, folder: Path):
        self.folder = folder

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            ShardError: There is no such file.
        """
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError as error:
            raise ShardError(f"no file {self.folder / name}", shard=name, offset=0) from error

    def read(self, name: str, start: int, end: int, *, key: str = "") -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file.

        Args:
            name: File name inside the store.
            start: First byte.
            end: The byte after the last.
            key: The sample that is being read, for errors.

        Raises:
            ShardError: The file is missing, unreadable, or ends before `end`.
        """
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            problem = error.strerror or str(error)
            raise ShardError(problem, shard=name, offset=start, key=key) from error
        if len(data) != end - start:
            problem = f"got {len(data)} bytes, wanted {end - start}: the file is truncated"
            raise ShardError(problem, shard=name, offset=start, key=key)
        return data
