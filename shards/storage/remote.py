"""Bytes by range from object storage: S3, Google, Azure, or any HTTP server that knows ranges.

Every answer is checked for its length, because no client notices a body that ends early with a
clean close; every object is read under the ETag of its first answer, so a shard that is replaced in
mid-epoch is an error. Ranges are short, so that no stream stays open while a consumer is slow. All
retries are made here, none by the client, so that they are counted and their length is known.
Credentials are the standard ones of each cloud's own tools (`AWS_*` and so on), read by the client,
or those of a file. A build stores files with `create`, which never writes over another.
"""

from __future__ import annotations

import logging
import mmap
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
)
from obstore.store import from_url

from vchat.base.files import sha256_of
from vchat.shards.storage.config import StorageConfig, refuse_secrets
from vchat.shards.storage.credentials import FileCredentials
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

ENDPOINT_KEYS = {"s3": "endpoint", "s3a": "endpoint", "az": "endpoint", "gs": "base_url"}


class RemoteStore:
    """Objects under one URL, read by byte range; safe to use from several threads.

    Not after a fork: the client's own threads do not survive it. Processes that are spawned may be
    given the store, they connect anew.
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
            sizes: of objects, as the manifest states them; another size is an error.
            pause: how to wait between attempts.

        Raises:
            ValueError: the URL carries a secret, is malformed, or needs other settings.
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
            MissingError: there is none.
            ShardError: it cannot be reached.
        """
        return self._retry(
            lambda: int(obstore.head(self._client, name)["size"]), name=name, offset=0
        )

    def size_if_there(self, name: str) -> int | None:
        """Return the size of an object in bytes, None if there is no such object.

        Raises:
            ShardError: it cannot be reached.
        """
        try:
            return self.size(name)
        except MissingError:
            return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` (exclusive) of an object.

        Raises:
            ShardError: not all of them after several attempts, or the object was replaced.
        """
        parts = [
            self._read_part(name, first, min(first + PART_BYTES, end))
            for first in range(start, end, PART_BYTES)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_range_and_size(self, name: str, start: int, end: int) -> tuple[bytes, int]:
        """Return a short range as far as the object reaches, and the object's size.

        Raises:
            MissingError: there is no such object.
            ShardError: it cannot be read.
        """
        try:
            return self._retry(lambda: self._get_range(name, start, end), name=name, offset=start)
        except UnreachableError:
            size = self.size(name)
            if size <= start:  # of which a range cannot be asked for
                return b"", size
            raise

    def read_all(self, name: str) -> bytes:
        """Return a whole object: the small files of a shard set."""
        return self.read(name, 0, self.size(name))

    def read_parts(self, name: str, size: int, *, pool: Executor) -> Iterator[bytes]:
        """Yield a whole object of a known size in order, a few parts in flight.

        Raises:
            ShardError: as `read`.
        """
        flying: deque[Future[bytes]] = deque()
        for first in range(0, size, PART_BYTES):
            flying.append(pool.submit(self._read_part, name, first, min(first + PART_BYTES, size)))
            if len(flying) == PARTS_IN_FLIGHT:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()

    def create(self, name: str, path: Path, *, sha256: str) -> None:
        """Store a local file under a name that has no object; an equal one there is as good.

        The object appears whole or not at all. The file is mapped, so its size costs no memory.

        Raises:
            ValueError: there is an object of that name with other content.
            ShardError: it cannot be stored.
        """
        seconds = self._storage.timeout_s + path.stat().st_size / MIN_UPLOAD_RATE
        settings = client_settings(self.url, self._storage)
        limit = timedelta(seconds=seconds)
        settings["client_options"] |= {"timeout": limit, "read_timeout": limit}

        def put() -> bool:
            client = from_url(self.url, **settings)
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

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of an object's contents."""
        with open_store_file(self, name) as file:
            return sha256_of(file)

    def list_folder(self, name: str) -> tuple[list[str], list[str]]:
        """Return the names of the objects right in a folder, and of the folders in it.

        Raises:
            ShardError: it cannot be listed.
        """
        found = self._retry(
            lambda: obstore.list_with_delimiter(self._client, name or None), name=name, offset=0
        )
        files = [one["path"].rpartition("/")[2] for one in found["objects"]]
        return files, [path.rpartition("/")[2] for path in found["common_prefixes"]]

    def list_below(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield `(name, version)` of every object below a folder; the version tells contents apart.

        Raises:
            ShardError: it cannot be listed.
        """
        pages = iter(obstore.list(self._client, prefix=name or None))
        while page := self._retry(lambda: next(pages, []), name=name, offset=0):
            yield from ((one["path"], _version(one)) for one in page)

    def version(self, name: str) -> str:
        """Return what tells an object's content from that of others which had its name.

        Raises:
            ShardError: there is none, or it cannot be reached.
        """
        return _version(self._retry(lambda: obstore.head(self._client, name), name=name, offset=0))

    def is_local(self, name: str) -> bool:
        """No."""
        return False

    def invalidate(self, name: str) -> None:
        """Do nothing: there is no copy."""

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage": self._storage, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], storage=state["storage"], sizes=state["sizes"])  # type: ignore[misc]

    def _connect(self) -> None:
        self._process = os.getpid()
        try:
            self._client: Any = from_url(self.url, **client_settings(self.url, self._storage))
        except BaseError as err:
            raise ValueError(
                f"{self.url}: {first_line(err)}; wanted s3://, gs://, az://, http:// or https://"
            ) from err

    def _read_part(self, name: str, start: int, end: int) -> bytes:
        data, size = self._retry(lambda: self._get_range(name, start, end), name=name, offset=start)
        if len(data) != end - start:
            problem = f"{self.url}: ends at byte {size}, wanted bytes {start} to {end}"
            raise UnreachableError(problem, shard=name, offset=start)
        return data

    def _retry(self, request: Callable[[], T], *, name: str, offset: int) -> T:
        """Return what `ask` returns, asked again with growing pauses if it fails."""
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
                self._connect()  # a revoked key is not asked for again by the old client
        raise UnreachableError(f"{self.url}: {problem}", shard=name, offset=offset)

    def _get_range(self, name: str, start: int, end: int) -> tuple[bytes, int]:
        """Ask for a range once, under the object's ETag if it is known.

        Returns it as far as the object reaches, and the object's size.
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
        if etag and len(data) < size:  # of a whole object nothing is left to read
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
    """Map a file into memory, for a client that takes a buffer without copying it."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def client_settings(url: str, storage: StorageConfig) -> dict[str, Any]:
    """Return the arguments of obstore's `from_url` after the URL.

    Raises:
        ValueError: an endpoint or a credentials file for a kind of URL that has none.
    """
    timeout = timedelta(seconds=storage.timeout_s)
    settings: dict[str, Any] = {
        "client_options": {
            "timeout": 10 * timeout,
            "read_timeout": timeout,
            "connect_timeout": min(timedelta(seconds=10), timeout),
            "allow_http": True,
        },
        "retry_config": {"max_retries": 0},
    }
    scheme = url.partition("://")[0]
    if storage.endpoint is not None:
        if scheme not in ENDPOINT_KEYS:
            raise ValueError(f"{url}: storage.endpoint is for s3://, gs:// and az:// URLs")
        settings["config"] = {ENDPOINT_KEYS[scheme]: storage.endpoint}
    if storage.credentials_file is not None:
        if scheme not in ("s3", "s3a"):
            raise ValueError(f"{url}: storage.credentials_file is for s3:// URLs")
        settings["credential_provider"] = FileCredentials(storage.credentials_file)
    return settings
