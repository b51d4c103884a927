"""SeaweedFS, a real S3 server, on free loopback ports: started once per test session.

A test takes the fixture `s3` (in `conftest.py`) and gets an empty place in a bucket of the running
server, with the environment variables set by which every S3 client finds it:

    def test_...(s3):
        s3.put("set/manifest.json", b"{}")
        open_shards(f"{s3.url}/set")
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

ACCESS_KEY, SECRET_KEY = "vchat-test", "loopback-only-secret"
START_S = 60.0
LOOPBACK = "127.0.0.1"
BUCKET = "tests"
"""One for all tests: the server reserves room for each bucket."""

_PLACES = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A place of its own in the bucket of a running server."""

    prefix: str
    endpoint: str
    """`http://127.0.0.1:PORT`."""

    @property
    def url(self) -> str:
        """`s3://BUCKET/PREFIX`, for the commands under test."""
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables that lead a client to the server, for a process under test."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    @cached_property
    def store(self) -> S3Store:
        """A client that is not the one under test; names are below the prefix."""
        return S3Store(
            BUCKET,
            prefix=self.prefix,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 2},
        )

    def put(self, name: str, data: bytes) -> None:
        """Store an object, in place of one that has its name."""
        obstore.put(self.store, name, data)

    def get(self, name: str) -> bytes:
        """Return an object."""
        return bytes(obstore.get(self.store, name).bytes())

    def delete(self, name: str) -> None:
        """Remove an object."""
        obstore.delete(self.store, name)

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of all objects, sorted."""
        listed = obstore.list(self.store, prefix=prefix or None)
        return sorted(entry["path"] for page in listed for entry in page)

    def put_folder(self, folder: Path, prefix: str) -> None:
        """Store all files below a folder, work folders left out."""
        paths = [path for path in folder.rglob("*") if path.is_file() and ".work" not in path.parts]
        names = [f"{prefix}/{path.relative_to(folder).as_posix()}" for path in paths]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(self.put, names, (path.read_bytes() for path in paths)))

    def contents(self, prefix: str) -> dict[str, bytes]:
        """Return all objects below a prefix, by the rest of their names."""
        return {name.removeprefix(f"{prefix}/"): self.get(name) for name in self.names(prefix)}


def new_bucket(endpoint: str) -> Bucket:
    """Return a place that no other test uses; the server makes the bucket with the first object."""
    return Bucket(prefix=f"{os.getpid()}-{next(_PLACES)}", endpoint=endpoint)


@contextlib.contextmanager
def serve_s3(
    folder: Path, *, address: str = LOOPBACK, ports: Sequence[int] | None = None
) -> Iterator[str]:
    """Run a server that keeps its data in a folder; yields its endpoint. The end is a kill.

    Args:
        ports: of `free_ports(5)`, to start again under the endpoint of a server before.
        address: loopback, or one of a network namespace that the test has made.

    Raises:
        RuntimeError: it did not start; with what it said.
    """
    ports = ports or free_ports(5)
    said = folder / "server.log"
    config = folder / "s3.json"
    config.write_text(json.dumps(_identities()))
    with said.open("wb") as log:
        process = subprocess.Popen(
            _command(folder, address=address, config=config, ports=ports),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=folder,
        )
    endpoint = f"http://{address}:{ports[-1]}"
    try:
        _wait_until_it_answers(endpoint, process, said=said)
        yield endpoint
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _remove_sockets(ports)


def _command(folder: Path, *, address: str, config: Path, ports: Sequence[int]) -> list[str]:
    """Return the command line: one address only, telemetry off; it ends with its parent."""
    master, volume, filer, filer_grpc, s3 = ports
    options = {
        "ip": address,
        "ip.bind": address,
        "dir": folder,
        "master.port": master,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.port": volume,
        "volume.max": 0,
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.localSocket": folder / "filer.sock",
        "s3.port": s3,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "s3.config": config,
    }
    weed = Path(sys.executable).parent / "weed"
    words = [f"-{name}={value}" for name, value in options.items()]
    ends_with_us = ["setpriv", "--pdeathsig", "KILL"]
    return [*ends_with_us, str(weed), "-logtostderr=true", "server", "-filer", "-s3", *words]


def _identities() -> dict[str, Any]:
    return {
        "identities": [
            {
                "name": "admin",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and so are those 10,000 above, which weed takes for gRPC."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(12_000, 22_000)
        if port not in ports and _is_free(port) and _is_free(port + 10_000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove the sockets that a killed server leaves in /tmp, named by its gRPC ports."""
    for port in ports:
        for number in (port, port + 10_000):
            for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # weed's own choice
                path.unlink(missing_ok=True)


def _wait_until_it_answers(endpoint: str, process: subprocess.Popen[bytes], *, said: Path) -> None:
    """Wait until an object can be stored: ports open before the volumes are there."""
    bucket = new_bucket(endpoint)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"weed ended with {process.returncode}: {said.read_text()[-2000:]}")
        try:
            address, _, port = endpoint.removeprefix("http://").partition(":")
            with socket.create_connection((address, int(port)), 1):
                bucket.put("started", b"yes")
        except (OSError, BaseError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"weed does not answer after {START_S} s: {said.read_text()[-2000:]}")
