"""Bytes by range from object storage: S3, Google, Azure, or any HTTP server that knows ranges.

The same two methods as `store.LocalStore`. Every answer is checked for its length, because no
client notices a body that ends early with a clean close; every object is read under the ETag of
its first answer, so a shard that is replaced in mid-epoch is an error. Ranges are short, so that no
stream stays open while a consumer is slow. Credentials and endpoints are the standard ones of each
cloud's own tools (`AWS_*` and so on), read by the client.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url
from vchat.shards.store import ShardError

if TYPE_CHECKING:
    from obstore import GetOptions

log = logging.getLogger(__name__)

PART_BYTES = 8 << 20
ATTEMPTS = 5
FIRST_PAUSE_S = 0.2


class RemoteStore:
    """Objects under one URL, read by byte range; safe to use from several threads.

    Not after a fork: the client's own threads do not survive it. Processes that are spawned may be
    given the store, they connect anew.
    """

    readers = 16

    def __init__(
        self, url: str, *, timeout_s: float = 30.0, pause: Callable[[float], None] = time.sleep
    ):
        """Connect to `url`: `s3://`, `gs://`, `az://`, `http://` or `https://`.

        Args:
            timeout_s: for one request.
            pause: how to wait between attempts.
        """
        self.url = url
        self._timeout_s, self._pause = timeout_s, pause
        self._etags: dict[str, str] = {}
        self._connect()

    def size(self, name: str) -> int:
        """Return the size of an object in bytes.

        Raises:
            ShardError: there is none, or it cannot be reached.
        """
        try:
            return int(obstore.head(self._client, name)["size"])
        except (BaseError, OSError) as err:
            raise ShardError(f"{self.url}: {one_line(err)}", shard=name, offset=0) from err

    def read(self, name: str, start: int, end: int, *, key: str = "") -> bytes:
        """Return bytes `start` to `end` (exclusive) of an object.

        Raises:
            ShardError: not all of them after several attempts, or the object was replaced.
        """
        parts = [
            self._part(name, first, min(first + PART_BYTES, end), key=key)
            for first in range(start, end, PART_BYTES)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_all(self, name: str) -> bytes:
        """Return a whole object: the small files of a shard set."""
        return self.read(name, 0, self.size(name))

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "timeout_s": self._timeout_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], timeout_s=state["timeout_s"])  # type: ignore[misc]

    def _connect(self) -> None:
        self._process = os.getpid()
        self._client: Any = from_url(
            self.url,
            client_options={
                "timeout": timedelta(seconds=self._timeout_s),
                "connect_timeout": timedelta(seconds=min(10.0, self._timeout_s)),
                "allow_http": True,
            },
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=self._timeout_s)},
        )

    def _part(self, name: str, start: int, end: int, *, key: str) -> bytes:
        """Return one short range, tried several times with growing pauses."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                data = self._once(name, start, end)
            except (FileNotFoundError, NotFoundError, PreconditionError) as err:
                problem = one_line(err)
                break
            except (PermissionDeniedError, UnauthenticatedError) as err:
                problem = one_line(err)
                self._connect()  # a revoked key is not asked for again by the old client
            except (BaseError, OSError) as err:
                problem = one_line(err)
            else:
                if len(data) == end - start:
                    return data
                problem = f"got {len(data)} bytes, wanted {end - start}"
            log.debug("%s/%s at %d, attempt %d: %s", self.url, name, start, attempt + 1, problem)
        raise ShardError(f"{self.url}: {problem}", shard=name, offset=start, key=key)

    def _once(self, name: str, start: int, end: int) -> bytes:
        """Ask for a range once, under the object's ETag if it is known."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self.url} was opened in process {self._process} and is used in its fork "
                f"{os.getpid()}; use threads, or start processes with spawn or forkserver"
            )
        options: GetOptions = {"range": (start, end)}
        if name in self._etags:
            options["if_match"] = self._etags[name]
        answer = obstore.get(self._client, name, options=options)
        data = bytes(answer.bytes())
        etag = answer.meta["e_tag"]
        if etag:
            self._etags.setdefault(name, etag)
        return data


def one_line(error: Exception) -> str:
    """Return what a client's error says, without its debugging appendix."""
    return str(error).split("\n", 1)[0].strip()
