"""A loopback HTTP proxy that shows the faults of storage: it stands before a real server.

    with start_proxy(s3.endpoint) as proxy:
        proxy.fault_of = lambda path, number: "503" if number % 3 == 0 else None
        open_shards(s3.url, storage=StorageConfig(endpoint=proxy.url))

Requests are passed on with their headers, so signatures stay valid and the server checks them.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

Fault = Literal[
    "503",  # slow down
    "500",  # internal error
    "reset",  # the connection is reset before an answer
    "reset_body",  # and in the middle of a body
    "stall",  # half a body, then silence
    "early",  # half a body, then a clean close
    "short",  # half a body, and headers that agree with it
    "flip",  # a wrong bit in the body
    "expired",  # 400 ExpiredToken, as S3 answers to old session keys
    "denied",  # 403
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

EXPIRED = (
    b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
)


@dataclass
class Proxy:
    """What a test tells the proxy, and what the proxy has seen."""

    url: str
    upstream: str
    """Of the server behind; may change while the proxy runs."""

    fault_of: Callable[[str, int], Fault | None] = lambda path, number: None
    """From the path and the number of its GET request (from 0), which fault to show."""

    key_in_use: str | None = None
    """Only requests signed with this access key are passed on, others have expired."""

    requests: Counter[str] = field(default_factory=Counter)
    """GET requests by path."""

    shown: Counter[Fault] = field(default_factory=Counter)
    ended: threading.Event = field(default_factory=threading.Event)


class Handler(http.server.BaseHTTPRequestHandler):
    """Passes one connection's requests on."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy
    _body: bytes | None = None
    """Of the request that is being answered."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        """Pass on without faults."""
        self._answer(self._passed_on(), fault=None)

    def do_GET(self) -> None:
        """Pass on, or show the fault that is due."""
        path = urlsplit(self.path).path
        number = self.proxy.requests[path]
        self.proxy.requests[path] += 1
        fault = self.proxy.fault_of(path, number)
        key = self.proxy.key_in_use
        if key is not None and f"Credential={key}/" not in self.headers.get("Authorization", ""):
            fault = "expired"
        if fault is not None:
            self.proxy.shown[fault] += 1
        if fault in ("503", "500", "denied", "expired"):
            status = {"denied": 403, "expired": 400}.get(fault) or int(fault)
            self._send(status, {}, EXPIRED if fault == "expired" else b"")
        elif fault == "reset":
            self._reset()
        else:
            self._answer(self._passed_on(), fault=fault)

    def do_PUT(self) -> None:
        """Store what was sent, or show the fault that is due."""
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()
        self._body = None  # the next request of this connection has its own

    do_POST = do_PUT

    def _passed_on(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the server behind; 502 if it does not answer."""
        parts = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(self._body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except (OSError, http.client.HTTPException):
            return 502, {}, b""
        finally:
            connection.close()

    def _answer(self, answer: tuple[int, dict[str, str], bytes], *, fault: Fault | None) -> None:
        """Send an answer of the server, spoiled if a fault is due."""
        status, headers, body = answer
        half = body[: len(body) // 2]
        if fault == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "short":
            body = half
        if fault not in ("stall", "early", "reset_body"):
            self._send(status, headers, body)
            return
        self._send(status, headers, half, announced=len(body))
        self.wfile.flush()
        if fault == "stall":
            self.proxy.ended.wait(30)
        if fault == "reset_body":
            self._reset()
        self.close_connection = True

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, *, announced: int | None = None
    ) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else None
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(announced or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """End the connection so that the other side sees a reset, not an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    """Says nothing when a client goes away."""

    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Do nothing: broken connections are what this is for."""


@contextlib.contextmanager
def start_proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before a server on a free loopback port."""

    class ProxyHandler(Handler):
        """Of this proxy alone."""

    server = Server(("127.0.0.1", 0), ProxyHandler)
    proxy = Proxy(url=f"http://127.0.0.1:{server.server_address[1]}", upstream=upstream)
    ProxyHandler.proxy = proxy
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
