"""Objects under one URL: S3, Google, Azure, or any HTTP server that knows ranges.

The length of every answer is checked, because no client notices a body that ends early with a clean
close. Every object is read under the ETag of its first answer, so a shard that is replaced during
an epoch is an error. Ranges are short, so that no stream stays open while a consumer is slow. A
failed request is repeated here, not by the client, so that retries are counted and their time is
known. `create` never replaces an object, `put` does.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
)

from vchat.base.files import sha256_of
from vchat.shards.storage.client import connect
from vchat.shards.storage.config import StorageConfig, refuse_secrets
from vchat.shards.storage.metrics import Metrics
from vchat.shards.storage.retries import (
    MAX_REFUSALS,
    ShortBodyError,
    classify_failure,
    first_line,
    retry_pauses,
)
from vchat.shards.storage.store import MissingError, UnreachableError
from vchat.shards.storage.store_file import open_store_file

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta

T = TypeVar("T")

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
PARTS_IN_FLIGHT = 4

MIN_UPLOAD_RATE = 2**20
"""Bytes per second below which an upload is taken for hung."""


class RemoteStore:
    """Objects under one URL; safe to use from several threads.

    Not usable after a fork, which the client's threads do not survive. Pickled for a spawned
    process, it connects anew there.
    """

    num_readers = 16

    def __init__(
        self,
        url: str,
        *,
        storage: StorageConfig | None = None,
        sizes: Mapping[str, int] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ):
        """Connect to `url`: `s3://`, `gs://`, `az://`, `http://` or `https://`.

        Args:
            url: Where the objects lie.
            storage: Endpoint, credentials, timeouts; by default those of the URL's kind.
            sizes: Of objects, as the manifest states them; another size is an error.
            pause: Waits between attempts; takes seconds.

        Raises:
            ValueError: The URL carries a secret, is malformed, or needs other settings.
        """
        refuse_secrets(url)
        self.url = url
        self.metrics = Metrics()
        self.sizes = dict(sizes or {})
        self._storage, self._pause = storage or StorageConfig(), pause
        self._etags: dict[str, str] = {}
        self._connect()

    def size(self, name: str) -> int:
        """Return the size of an object in bytes.

        Raises:
            MissingError: There is none.
            ShardError: It cannot be reached.
        """
        return self._retry(
            lambda: int(obstore.head(self._client, name)["size"]), name=name, offset=0
        )

    def size_if_there(self, name: str) -> int | None:
        """Return the size of an object in bytes, None if there is no such object.

        Raises:
            ShardError: It cannot be reached.
        """
        try:
            return self.size(name)
        except MissingError:
            return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of an object.

        Raises:
            ShardError: Some are missing after all attempts, or the object was replaced.
        """
        parts = [
            self._read_part(name, first, min(first + PART_BYTES, end))
            for first in range(start, end, PART_BYTES)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_range_and_size(self, name: str, start: int, end: int) -> tuple[bytes, int]:
        """Return a short range as far as the object reaches, and the object's size.

        Raises:
            MissingError: There is no such object.
            ShardError: It cannot be read.
        """
        try:
            return self._retry(lambda: self._get_range(name, start, end), name=name, offset=start)
        except UnreachableError:
            size = self.size(name)
            if size <= start:  # storage refuses a range beyond the end
                return b"", size
            raise

    def read_all(self, name: str) -> bytes:
        """Return a whole object, for small ones."""
        return self.read(name, 0, self.size(name))

    def read_parts(self, name: str, size: int, *, pool: Executor) -> Iterator[bytes]:
        """Yield the bytes of a whole object in order, read by range with a few parts in flight.

        Args:
            name: Of the object.
            size: Of the object, in bytes.
            pool: Reads the parts.

        Raises:
            ShardError: As for `read`.
        """
        pending: deque[Future[bytes]] = deque()
        for first in range(0, size, PART_BYTES):
            pending.append(pool.submit(self._read_part, name, first, min(first + PART_BYTES, size)))
            if len(pending) == PARTS_IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def create(self, name: str, path: Path, *, sha256: str) -> None:
        """Store a local file under a name that has no object, or has an equal one.

        The object appears whole or not at all. The file is mapped, so its size costs no memory.

        Raises:
            ValueError: There is an object of that name with other content.
            ShardError: It cannot be stored.
        """

        def put() -> bool:
            client = self._connect_for_upload(path)
            try:
                obstore.put(client, name, _map_file(path), mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

        is_new = self._retry(put, name=name, offset=0)
        if not is_new and (found := self.sha256(name)) != sha256:
            raise ValueError(
                f"{self.url}/{name} is of another build: its sha256 is {found[:16]}.., ours"
                f" {sha256[:16]}..; choose another place, or delete what is there"
            )

    def put(self, name: str, path: Path) -> None:
        """Store a local file, in place of an object of that name if there is one.

        A large file goes up in parts and the object appears when all have arrived. A part that
        fails is sent again by the client.

        Raises:
            ShardError: It cannot be stored.
        """
        client = connect(self.url, self._storage, client_retries=True)
        self.metrics.count("requests")
        self._etags.pop(name, None)
        try:
            obstore.put(client, name, path)
        except (BaseError, OSError) as err:
            raise UnreachableError(f"{self.url}: {first_line(err)}", shard=name) from err

    def remove(self, name: str) -> None:
        """Delete an object; does nothing if there is none.

        Raises:
            ShardError: It cannot be reached, or may not be deleted.
        """
        self._etags.pop(name, None)
        with contextlib.suppress(MissingError):
            self._retry(lambda: obstore.delete(self._client, name), name=name, offset=0)

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of an object's contents."""
        with open_store_file(self, name) as file:
            return sha256_of(file)

    def list_folder(self, name: str) -> tuple[list[str], list[str]]:
        """Return the names of the objects and of the folders directly in a folder.

        Raises:
            ShardError: It cannot be listed.
        """
        files, folders = self.list_versions(name)
        return list(files), folders

    def list_versions(self, name: str) -> tuple[dict[str, str], list[str]]:
        """Return the objects of a folder with their versions, and the names of its folders.

        Equal versions mean equal contents.

        Raises:
            ShardError: It cannot be listed.
        """
        found = self._retry(
            lambda: obstore.list_with_delimiter(self._client, name or None), name=name, offset=0
        )
        files = {one["path"].rpartition("/")[2]: _version(one) for one in found["objects"]}
        return files, [path.rpartition("/")[2] for path in found["common_prefixes"]]

    def list_below(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield `(name, version)` of every object below a folder, at any depth.

        Equal versions mean equal contents.

        Raises:
            ShardError: It cannot be listed.
        """
        pages = iter(obstore.list(self._client, prefix=name or None))
        while page := self._retry(lambda: next(pages, []), name=name, offset=0):
            yield from ((one["path"], _version(one)) for one in page)

    def version(self, name: str) -> str:
        """Return a text that changes with the object's content.

        Raises:
            ShardError: There is none, or it cannot be reached.
        """
        return _version(self._retry(lambda: obstore.head(self._client, name), name=name, offset=0))

    def is_local(self, name: str) -> bool:
        """Return False: every read goes over the network."""
        return False

    def invalidate(self, name: str) -> None:
        """Do nothing: there is no copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage": self._storage, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], storage=state["storage"], sizes=state["sizes"])  # type: ignore[misc]

    def _connect(self) -> None:
        self._process = os.getpid()
        self._client = connect(self.url, self._storage)

    def _connect_for_upload(self, path: Path) -> Any:
        """Return a client whose requests may take as long as this file needs."""
        seconds = self._storage.timeout_s + path.stat().st_size / MIN_UPLOAD_RATE
        return connect(self.url, self._storage, request_limit_s=seconds)

    def _read_part(self, name: str, start: int, end: int) -> bytes:
        data, size = self._retry(lambda: self._get_range(name, start, end), name=name, offset=start)
        if len(data) != end - start:
            problem = f"{self.url}: ends at byte {size}, wanted bytes {start} to {end}"
            raise UnreachableError(problem, shard=name, offset=start)
        return data

    def _retry(self, request: Callable[[], T], *, name: str, offset: int) -> T:
        """Return the answer of a request, repeated after growing pauses while it fails."""
        refusals = 0
        for pause in [*retry_pauses(self._storage.retry_for_s), None]:
            self.metrics.count("requests")
            try:
                return request()
            except (BaseError, OSError, ShortBodyError) as err:
                if isinstance(err, FileNotFoundError | NotFoundError):
                    problem = f"there is no such object in {self.url}"
                    raise MissingError(problem, shard=name, offset=offset) from err
                problem = first_line(err)
                kind = classify_failure(err)
                refusals = refusals + 1 if kind.is_refusal else 0
            log.debug("%s/%s at %d: %s", self.url, name, offset, problem)
            if kind.is_final or refusals == MAX_REFUSALS or pause is None:
                break
            self.metrics.count("retries")
            self._pause(pause * random.uniform(0.5, 1.5))
            if kind.is_refusal:
                self._connect()  # the old client would go on with a revoked key
        raise UnreachableError(f"{self.url}: {problem}", shard=name, offset=offset)

    def _get_range(self, name: str, start: int, end: int) -> tuple[bytes, int]:
        """Request a range once, under the object's ETag if it is known.

        Returns the range as far as the object reaches, and the object's size.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.url} was opened in process {self._process} and is used in its fork "
                f"{os.getpid()}; use threads, or start processes with spawn or forkserver"
            )
        options: GetOptions = {"range": (start, end)}
        if name in self._etags:
            options["if_match"] = self._etags[name]
        answer = obstore.get(self._client, name, options=options)
        size = int(answer.meta["size"])
        self._check_size(name, found=size)
        data = bytes(answer.bytes())
        self.metrics.count("network_bytes", len(data))
        wanted = max(0, min(end, size) - start)
        if len(data) != wanted:
            raise ShortBodyError(f"got {len(data)} bytes, wanted {wanted}")
        etag = answer.meta["e_tag"]
        if etag and len(data) < size:  # a whole object needs no second read
            self._etags.setdefault(name, etag)
        return data, size

    def _check_size(self, name: str, *, found: int) -> None:
        """Raise if an object is not as long as the manifest says."""
        wanted = self.sizes.get(name, found)
        if found != wanted:
            problem = f"{self.url}: has {found} bytes, manifest.json says {wanted}"
            raise UnreachableError(problem, shard=name, offset=0)


def _version(found: ObjectMeta) -> str:
    return f"{found['e_tag'] or found['last_modified']} {found['size']}"


def _map_file(path: Path) -> memoryview:
    """Map a file into memory: the client takes the buffer without a copy."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
