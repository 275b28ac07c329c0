"""A real HTTP server on loopback that can be told to misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Page:
    """What one path answers.

    ``before`` are statuses (with headers) that are answered first, one a request; ``break_after`` closes the
    connection after so many bytes, ``breaks`` times; ``stall_s`` waits before every 1,000 bytes.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    before: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    break_after: int = 0
    breaks: int = 0
    stall_s: float = 0.0
    length: bool = True


class WebServer:
    """Pages by path, and a record of what was asked: (path, headers)."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.sent = Counter[str]()
        self.together = self.most_together = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with outer._lock:
                    outer.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                    outer.together += 1
                    outer.most_together = max(outer.most_together, outer.together)
                try:
                    with contextlib.suppress(ConnectionError):
                        outer._answer(self)
                finally:
                    with outer._lock:
                        outer.together -= 1

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may leave when they like
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, path: str) -> int:
        """How often a path was asked."""
        return sum(asked == path for asked, _ in self.asked)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        page = self.pages.get(request.path, Page(status=404))
        if page.before:
            status, headers = page.before.pop(0)
            return _send(request, status, headers, b"")
        if page.status != 200:
            return _send(request, page.status, page.headers, page.body)
        etag = f'"{hashlib.sha256(page.body).hexdigest()[:16]}"'
        headers = {"ETag": etag, **page.headers} if page.etag else dict(page.headers)
        start, status = 0, 200
        asked = request.headers.get("Range")
        if page.ranges and asked and request.headers.get("If-Range", etag) == etag:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(page.body):
                return _send(request, 416, {"Content-Range": f"bytes */{len(page.body)}"}, b"")
            headers["Content-Range"] = f"bytes {start}-{len(page.body) - 1}/{len(page.body)}"
        body = page.body[start:]
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header(*(("Content-Length", str(len(body))) if page.length else ("Connection", "close")))
        request.end_headers()
        if page.breaks:
            page.breaks -= 1
            self.sent[request.path] += page.break_after
            request.wfile.write(body[: page.break_after])
            request.close_connection = True
            return None
        for offset in range(0, len(body), 1000 if page.stall_s else max(len(body), 1)):
            time.sleep(page.stall_s)
            part = body[offset : offset + 1000] if page.stall_s else body
            self.sent[request.path] += len(part)  # before they are sent: whoever has them may look
            request.wfile.write(part)
        if not page.length:
            request.close_connection = True
        return None


def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    """Run a server as long as the block lasts."""
    with WebServer() as server:
        yield server
