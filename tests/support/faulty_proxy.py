"""An HTTP proxy before a server, which refuses or breaks off where a test says so."""

from __future__ import annotations

import enum
import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


class Fault(enum.Enum):
    """What may become of a request."""

    BUSY = "503, and the server does not see it"
    CLOSED = "the connection is closed, and the server does not see it"
    CUT = "carried out, and the connection is closed in the middle of the answer's body"
    LOST = "carried out, and the connection is closed in place of an answer"


Fails = Callable[[str, str, int], Fault | None]


class FaultyProxy:
    """Forwards requests to ``host:port``.

    ``fails(method, path, seen)`` is asked for each; ``seen`` counts earlier requests of this method and path. Assign
    another at any time. ``failed`` counts the requests that met a fault.
    """

    def __init__(self, host: str, port: int) -> None:
        self.fails: Fails = lambda *_: None
        self.failed = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy._asked(self.command, self.path.partition("?")[0])
                if fault is Fault.BUSY:
                    self._answer(503, {"Content-Type": "application/xml"}, BUSY)
                    return
                if fault is Fault.CLOSED:
                    self._close()
                    return
                to_server = http.client.HTTPConnection(host, port, timeout=60)
                to_server.request(self.command, self.path, body, dict(self.headers.items()))
                answer = to_server.getresponse()
                data = answer.read()
                to_server.close()
                if fault is not Fault.LOST:
                    self._answer(answer.status, dict(answer.getheaders()), data, cut=fault is Fault.CUT)
                if fault is not None:
                    self._close()

            def _close(self) -> None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

            def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
                self.send_response_only(status)
                kept = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
                if self.command != "HEAD":
                    kept["Content-Length"] = str(len(body))
                for name, value in kept.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if cut else body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _asked(self, method: str, path: str) -> Fault | None:
        with self._lock:
            fault = self.fails(method, path, self._seen[method, path])
            self._seen[method, path] += 1
            self.failed += fault is not None
            return fault


_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
