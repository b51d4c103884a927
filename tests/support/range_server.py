"""A loopback HTTP server with byte ranges and ETags; `fault_proxy.py` adds what goes wrong."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class FolderServer:
    """What a test tells the server, and what the server has seen."""

    url: str
    etag: str = '"1"'
    requests: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[FolderServer]:
    """Serve a folder on a free loopback port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Stay silent."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            served.requests[self.path] += body
            wanted = self.headers.get("If-Match")
            if wanted and wanted != served.etag:
                self.send_response(412)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_range(path.read_bytes(), body=body)

        def send_range(self, data: bytes, *, body: bool) -> None:
            asked = self.headers.get("Range")
            first, last = 0, len(data) - 1
            if asked:
                first, last = map(int, asked.removeprefix("bytes=").split("-"))
                last = min(last, len(data) - 1)
            part = data[first : last + 1]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", served.etag)
            self.send_header("Last-Modified", "Sun, 01 Jan 2023 00:00:00 GMT")
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if body:
                self.wfile.write(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = FolderServer(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
