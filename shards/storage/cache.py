"""Whole shards on a local disk, within a size limit, shared by all processes of a machine.

An entry is named by the SHA-256 of its content, so equal shards of any set are one entry and
another build never meets old ones. An entry gets its name only when its digest is right: a reader
sees a whole shard or none. A process that fills an entry holds a lock on the partial file itself;
a process that evicts entries holds a lock on the folder. The kernel frees both when the process
ends, so at most a partial file is left, which the next process fills anew or removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from vchat.base.locks import claim_file, lock_folder

PARTIAL_SUFFIX = ".part"
_ENTRY_NAME = re.compile(r"[0-9a-f]{64}(\.part)?")


class ShardCache:
    """A folder of shards, named by digest; safe to use from several threads and processes."""

    def __init__(self, folder: Path, *, limit_bytes: int):
        """Use a folder, made if absent; other files in it are left alone.

        Args:
            folder: On a local disk.
            limit_bytes: The most that entries, whole and partial, take together.
        """
        self.folder = folder
        self.limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def look_up(self, digest: str) -> Path | None:
        """Return the path of an entry and mark it as just used; None if there is none."""
        path = self._entry(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def contains(self, digest: str) -> bool:
        """Whether there is an entry; does not mark it as used."""
        return self._entry(digest).exists()

    def remove(self, digest: str) -> None:
        """Remove an entry with wrong content; a process that has it open can read on."""
        self._entry(digest).unlink(missing_ok=True)

    def fill(self, digest: str, *, size: int, parts: Iterable[bytes]) -> bool:
        """Write a shard as an entry; return whether the entry is there afterwards.

        It is not if another process is filling it, or if it does not fit beside the entries that
        other processes are filling. `parts` is consumed only if this process fills the entry.

        Args:
            digest: SHA-256 of the shard.
            size: Of the shard, in bytes.
            parts: Its bytes, in order.

        Raises:
            ValueError: The bytes have another digest; the entry stays absent.
            OSError: The disk is full or fails; the entry stays absent.
        """
        if self.contains(digest):
            return True
        partial = self._entry(digest + PARTIAL_SUFFIX)
        with claim_file(partial) as file:
            if file is None:
                return self.contains(digest)
            try:
                if not self.contains(digest) and self._reserve(file, size, name=partial.name):
                    write_and_check(file, parts, digest=digest)
                    with lock_folder(self.folder):  # so that eviction counts each entry once
                        partial.rename(self._entry(digest))
            finally:
                partial.unlink(missing_ok=True)
        return self.contains(digest)

    def _reserve(self, file: IO[bytes], size: int, *, name: str) -> bool:
        """Evict entries and give the file its `size`; return False if that does not fit."""
        with lock_folder(self.folder):
            others = [entry for entry in self._entries() if entry.name != name]
            used = sum(size_or_zero(entry) for entry in others)
            for entry in sorted(others, key=eviction_order):
                if used + size <= self.limit_bytes:
                    break
                used -= evict_entry(entry)
            if used + size > self.limit_bytes:
                return False
            os.truncate(file.fileno(), size)
            return True

    def _entry(self, name: str) -> Path:
        """Return the path of an entry; raise ValueError for a name that no entry has."""
        if _ENTRY_NAME.fullmatch(name) is None:
            raise ValueError(f"{name!a} is no entry of a cache, wanted 64 hexadecimal digits")
        return self.folder / name

    def _entries(self) -> list[Path]:
        """Return the files of all entries, whole and partial."""
        return [path for path in self.folder.iterdir() if _ENTRY_NAME.fullmatch(path.name)]


def write_and_check(file: IO[bytes], parts: Iterable[bytes], *, digest: str) -> None:
    """Write the parts in order; raise ValueError if they have another digest."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
        file.write(part)
    if found.hexdigest() != digest:
        raise ValueError(f"sha256 is {found.hexdigest()}, manifest.json says {digest}")


def eviction_order(entry: Path) -> tuple[bool, float]:
    """Return a sort key: partial entries first, then those not used for longest."""
    with contextlib.suppress(FileNotFoundError):
        return not entry.name.endswith(PARTIAL_SUFFIX), entry.stat().st_mtime
    return False, 0.0


def size_or_zero(entry: Path) -> int:
    """Return the size of a file, 0 if another process has removed it."""
    with contextlib.suppress(FileNotFoundError):
        return entry.stat().st_size
    return 0


def evict_entry(entry: Path) -> int:
    """Remove an entry unless a process is filling it; return how many bytes that freed."""
    size = size_or_zero(entry)
    if not entry.name.endswith(PARTIAL_SUFFIX):
        entry.unlink(missing_ok=True)
        return size
    with claim_file(entry) as file:
        if file is None:
            return 0
        entry.unlink(missing_ok=True)
    return size
