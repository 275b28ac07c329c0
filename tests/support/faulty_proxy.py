"""An HTTP proxy before a server, which answers 503 where a test says so."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
Refuses = Callable[[str, str, int], bool]


class FaultyProxy:
    """Forwards requests to ``host:port``.

    ``refuses(method, path, seen)`` is asked for each; ``seen`` counts earlier requests of this method and path. Assign
    another at any time. ``refused`` counts the requests that got 503.
    """

    def __init__(self, host: str, port: int) -> None:
        self.refuses: Refuses = lambda *_: False
        self.refused = 0
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy._asked(self.command, self.path.partition("?")[0]):
                    self._answer(503, {"Content-Type": "application/xml"}, BUSY)
                    return
                to_server = http.client.HTTPConnection(host, port, timeout=60)
                to_server.request(self.command, self.path, body, dict(self.headers.items()))
                answer = to_server.getresponse()
                self._answer(answer.status, dict(answer.getheaders()), answer.read())
                to_server.close()

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response_only(status)
                kept = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
                if self.command != "HEAD":
                    kept["Content-Length"] = str(len(body))
                for name, value in kept.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

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

    def _asked(self, method: str, path: str) -> bool:
        with self._lock:
            refused = self.refuses(method, path, self._seen[method, path])
            self._seen[method, path] += 1
            self.refused += refused
            return refused


_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
