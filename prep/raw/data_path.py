"""Where raw data is: a local path, or a URL of object storage with the methods of a path.

`RemotePath` has the methods of `pathlib.Path` that sources use, so a source reads `s3://` as it
reads a folder. A process lists each folder once. Plain HTTP servers cannot list a folder: there,
`is_file` asks the server for each file, and `is_dir` is always True.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from vchat.base.cli import WrongUse
from vchat.shards.storage.config import StorageConfig, refuse_secrets
from vchat.shards.storage.remote import PART_BYTES, RemoteStore
from vchat.shards.storage.store_file import StoreFile

SCHEMES = ("s3", "gs", "az", "http", "https")
BUFFER_BYTES = 1 << 16
"""Bytes that opening a file fetches: they hold the header of nearly every picture."""

LONGEST_NAME = 1024
"""Bytes of the longest object name that S3, Google and Azure allow."""

_CONTROL = re.compile("[\0-\x1f\x7f]")
"""Characters that the storage client refuses in a name."""

VERSION_BYTES = 1 << 16
"""Bytes of a file's beginning and of its end that `version_of` digests."""

MAX_LISTINGS = 256
"""Folder listings that a process caches for one bucket, at 16 bytes per name."""


def data_path(text: str, *, storage: StorageConfig | None = None) -> DataPath:
    """Return the local or remote path that a path or URL names.

    Raises:
        WrongUse: If the URL has another scheme, or holds a secret.
    """
    if "://" not in text:
        return Path(text)
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        raise WrongUse(f"{scheme}://: want a path, or a URL of {', '.join(SCHEMES)}")
    try:
        refuse_secrets(text)
    except ValueError as err:
        raise WrongUse(str(err)) from err
    bucket, _, inside = rest.partition("/")
    return RemotePath(
        _bucket(f"{scheme}://{bucket}", storage or StorageConfig()), PurePosixPath(inside)
    )


def read_range(path: DataPath, start: int, size: int) -> bytes:
    """Return `size` bytes of a file from `start` on, fewer if the file ends before."""
    if isinstance(path, RemotePath):
        return path.read_range(start, size)
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - file.seek(start)
        return file.read(max(0, min(size, left)))  # `read` allocates as much as it is asked for


def path_below(path: DataPath, folder: DataPath) -> str:
    """Return the path of a file below a folder of the same store."""
    if isinstance(path, RemotePath):
        assert isinstance(folder, RemotePath)
        return str(path.relative_to(folder))
    assert isinstance(folder, Path)
    return path.relative_to(folder).as_posix()


def version_of(path: DataPath) -> str:
    """Return a text that changes when the content of a file or folder does.

    Of a local file: its time, size and a digest of its two ends. Of a local folder: its time, which
    changes when a file is added, not when one changes in place.
    """
    if isinstance(path, RemotePath):
        return path.version()
    status = path.stat()
    starts = (0, max(0, status.st_size - VERSION_BYTES)) if path.is_file() else ()
    hasher = xxhash.xxh3_64(b"".join(read_range(path, start, VERSION_BYTES) for start in starts))
    return f"{status.st_mtime_ns} {status.st_size} {hasher.hexdigest()}"


def find_files(folder: DataPath, pattern: str) -> list[DataPath]:
    """Return the files below a folder that match a pattern, sorted; `**/` matches any folders."""
    if isinstance(folder, RemotePath):
        return sorted(folder.glob(pattern))
    return sorted(folder.glob(pattern))


def for_arrow(path: DataPath) -> Any:
    """Return what pyarrow reads the file from: a local path, or an open remote file."""
    return path.open("rb", buffering=0) if isinstance(path, RemotePath) else path


class _Bucket:
    """A bucket or HTTP server, with a cache of its folder listings."""

    def __init__(self, url: str, storage: StorageConfig):
        self.url = url
        self.store = RemoteStore(url, storage=storage)
        self.can_list = not url.startswith("http")
        self._lock = threading.Lock()
        self._cached_listing = lru_cache(maxsize=MAX_LISTINGS)(self._list_folder)

    def list_folder(self, folder: str) -> _Listing:
        """Return what `_list_folder` returns; several threads list one folder once."""
        with self._lock:
            return self._cached_listing(folder)

    def _list_folder(self, folder: str) -> _Listing:
        files, folders = self.store.list_versions(folder)
        names = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in files], np.uint64)
        versions = [xxhash.xxh3_64_intdigest(one.encode()) for one in files.values()]
        order = np.argsort(names)
        return _Listing(
            names=names[order],
            versions=np.array(versions, dtype=np.uint64)[order],
            is_empty=not files and not folders,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listing:
    """The files of a remote folder, as hashes."""

    names: NDArray[np.uint64]
    """Sorted."""

    versions: NDArray[np.uint64]
    """In the same order."""

    is_empty: bool
    """Whether there are neither files nor folders."""

    def version_of(self, name: str) -> int | None:
        """Return the hash of a file's version; None if there is no such file."""
        wanted = np.uint64(xxhash.xxh3_64_intdigest(name.encode()))
        i = int(np.searchsorted(self.names, wanted))
        return int(self.versions[i]) if i < len(self.names) and self.names[i] == wanted else None


@lru_cache(maxsize=16)
def _bucket(url: str, storage: StorageConfig) -> _Bucket:
    return _Bucket(url, storage)


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder of a bucket, compared by value."""

    _bucket: _Bucket
    _path: PurePosixPath

    def __str__(self) -> str:
        return f"{self._bucket.url}/{self._name}"

    def __lt__(self, other: RemotePath) -> bool:
        return self._path < other._path

    def __truediv__(self, other: str | PurePosixPath) -> RemotePath:
        return RemotePath(self._bucket, self._path / other)

    @property
    def _name(self) -> str:
        return "" if self._path == PurePosixPath() else str(self._path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The name from its last dot on, empty without a dot."""
        return self._path.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that contains it."""
        return RemotePath(self._bucket, self._path.parent)

    def with_name(self, name: str) -> RemotePath:
        """Return the path of another name in the same folder."""
        return RemotePath(self._bucket, self._path.with_name(name))

    def relative_to(self, other: RemotePath) -> PurePosixPath:
        """Return the path relative to `other`, a folder above it."""
        return self._path.relative_to(other._path)

    def is_relative_to(self, other: RemotePath) -> bool:
        """Tell whether it lies below `other`, in the same bucket."""
        return self._bucket is other._bucket and self._path.is_relative_to(other._path)

    @property
    def can_list(self) -> bool:
        """Whether the store can list a folder: all but HTTP can."""
        return self._bucket.can_list

    def absolute(self) -> RemotePath:
        """Return itself: a URL is always absolute."""
        return self

    def is_file(self) -> bool:
        """Tell whether there is an object of this name."""
        if len(self._name.encode()) > LONGEST_NAME or _CONTROL.search(self._name):
            return False
        if not self._bucket.can_list:
            return self._bucket.store.size_if_there(self._name) is not None
        return self.version_in_listing() is not None

    def version_in_listing(self) -> int | None:
        """Return a number that changes with the content, from the listing of the file's folder.

        It is None if there is no such file. The store must be able to list.
        """
        return self._bucket.list_folder(self.parent._name).version_of(self.name)

    def is_dir(self) -> bool:
        """Tell whether any object lies below; always True over HTTP, which cannot tell."""
        return not self._bucket.can_list or not self._bucket.list_folder(self._name).is_empty

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the files of the folder.

        Raises:
            ValueError: Over HTTP, which cannot list a folder.
        """
        if not self._bucket.can_list:
            raise ValueError(f"{self}: HTTP cannot list a folder: put a .zip or .tar in its place")
        files, _ = self._bucket.store.list_folder(self._name)
        yield from (self / name for name in files)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files below that match; `**/` matches any folders. Nothing over HTTP."""
        if self._bucket.can_list:
            fixed, _, _ = pattern.partition("*")
            below = self / fixed.rpartition("/")[0]
            for name, _ in self._bucket.store.list_below(below._name):
                inside = str(PurePosixPath(name).relative_to(self._path))
                if _matches(inside, pattern):
                    yield self / inside

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files in any folder below whose name matches."""
        yield from self.glob(f"**/{pattern}")

    def open(self, mode: str = "rb", buffering: int = -1) -> IO[bytes]:
        """Open for reading.

        Raises:
            FileNotFoundError: There is no such object.
        """
        assert mode == "rb", mode
        store = self._bucket.store
        data, size = store.read_range_and_size(self._name, 0, BUFFER_BYTES)
        raw = StoreFile(store, self._name, size=size, beginning=data)
        return cast(IO[bytes], raw if buffering == 0 else io.BufferedReader(raw, BUFFER_BYTES))

    def read_range(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer if the object ends before.

        Up to `PART_BYTES` take one request.

        Raises:
            FileNotFoundError: There is no such object.
        """
        store, end = self._bucket.store, start + size
        data, total = store.read_range_and_size(self._name, start, min(end, start + PART_BYTES))
        rest = (start + len(data), min(end, total))
        return data if rest[0] >= rest[1] else data + store.read(self._name, *rest)

    def version(self) -> str:
        """Return a text that changes when the content of the file, or of a file below, does.

        Over HTTP, where a folder cannot be listed, it is the same for every folder.
        """
        if self.is_file():
            return self._bucket.store.version(self._name)
        hasher = xxhash.xxh3_128()
        if self._bucket.can_list:
            for name, version in sorted(self._bucket.store.list_below(self._name)):
                hasher.update(f"{name} {version}\n".encode())
        return hasher.hexdigest()


def _matches(path: str, pattern: str) -> bool:
    """Tell whether a path matches a pattern with at most one `**`."""
    head, many, tail = (part.strip("/") for part in pattern.partition("**"))
    parts = path.split("/")
    first, last = (part.split("/") if part else [] for part in (head, tail))
    if len(parts) < len(first) + len(last) or (not many and len(parts) != len(first)):
        return False
    pairs = [*zip(parts, first, strict=False), *zip(parts[::-1], last[::-1], strict=False)]
    return all(fnmatchcase(part, wanted) for part, wanted in pairs)


DataPath: TypeAlias = Path | RemotePath
