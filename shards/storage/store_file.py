"""A file of a store as an open Python file, for streaming and for seeking.

A read that continues the last one fetches whole parts and prefetches the next ones, so a stream is
as fast as the connection, and no request stays open while its reader is slow. Any other read
fetches exactly the bytes it needs. Memory: `PREFETCHED_PARTS` parts and two behind them.
"""

from __future__ import annotations

import io
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, cast

from vchat.shards.storage.store import Store

PART_BYTES = 4 << 20
PREFETCHED_PARTS = 4
PARTS_KEPT_BEHIND = 2


def open_store_file(store: Store, name: str) -> IO[bytes]:
    """Open a file of a store for reading.

    Raises:
        ShardError: There is none, or it cannot be reached.
    """
    return cast(IO[bytes], io.BufferedReader(StoreFile(store, name, size=store.size(name))))


class StoreFile(io.RawIOBase):
    """The bytes of one file, by offset; not safe to use from several threads."""

    def __init__(self, store: Store, name: str, *, size: int, beginning: bytes = b""):
        """Read the file `name` of `size` bytes, of which `beginning` is known already."""
        self.name = name
        self._store, self._size, self._beginning = store, size, beginning
        self._offset = self._last_end = 0
        self._parts: dict[int, Future[bytes]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset; costs nothing until the next read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        self._offset = max(0, base + offset)
        return self._offset

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, fewer only at the end of the file; all the rest if negative."""
        left = self._size - self._offset
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted > 0:
            pieces.append(self._read_next(wanted))
            wanted -= len(pieces[-1])
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what one read gives; returns 0 only at the end of the file.

        Raises:
            ShardError: The file cannot be read, or was replaced.
        """
        data = self._read_next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read_next(self, size: int) -> bytes:
        """Return the next bytes, up to `size`, and move past them."""
        start = self._offset
        data = self._read_some(start, min(start + size, self._size))
        self._offset = self._last_end = start + len(data)
        return data

    def close(self) -> None:
        """Cancel what is being fetched."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._parts.clear()
        super().close()

    def _read_some(self, start: int, end: int) -> bytes:
        """Return at least one byte from `start` on, up to `end`; none at the end of the file."""
        if start >= end:
            return b""
        if start < len(self._beginning):
            return self._beginning[start:end]
        number = start // PART_BYTES
        if number in self._parts or start == self._last_end:
            part = self._read_part(number)
            return part[start - number * PART_BYTES : end - number * PART_BYTES]
        return self._store.read(self.name, start, end)

    def _read_part(self, number: int) -> bytes:
        """Return one part and start to fetch the next ones."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(PREFETCHED_PARTS)
        for wanted in range(number, number + PREFETCHED_PARTS):
            first = wanted * PART_BYTES
            if wanted not in self._parts and first < self._size:
                last = min(first + PART_BYTES, self._size)
                read = self._store.read
                self._parts[wanted] = self._threads.submit(read, self.name, first, last)
        for old in [one for one in self._parts if one < number - PARTS_KEPT_BEHIND]:
            self._parts.pop(old).cancel()
        return self._parts[number].result()
