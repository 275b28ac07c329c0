"""Fetch files over HTTP(S) from servers that nobody vouches for: paced, resumed, bounded, and never from within."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import certifi
import httpcore
from pydantic import Field

from infra.addresses import CheckedBackend
from infra.config import BaseConfig
from infra.errors import FetchError, RefusedError, TransientError
from infra.pace import Pace
from infra.partial import Deadline, Fetched, Partial
from infra.urls import basic_auth, shown_url, split_url

logger = logging.getLogger(__name__)
T = TypeVar("T")

_AGENT = "marlin-ingest/1"
PASSING_STATUS = frozenset({408, 421, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be others on another try."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_UNSAFE = re.compile(r"[^!-~]")
_BLANK = re.compile(r"[\x00-\x20\x7f]")


class FetchLimits(BaseConfig):
    """What fetching one file may cost, and how polite it is."""

    requests_per_s: float = Field(default=4.0, gt=0, le=1000)
    """Requests a second that one host is asked."""
    burst: int = Field(default=8, ge=1)
    """Requests that one host is asked at once before that rate holds."""
    attempts: int = Field(default=4, ge=1, le=20)
    """Times one file is tried while failures come that may pass."""
    backoff_s: float = Field(default=1.0, ge=0)
    """Seconds before the second attempt; doubled each time, up to ``max_wait_s``. ``Retry-After`` wins."""
    max_wait_s: float = Field(default=120.0, ge=0)
    """Longest wait before another attempt; a server that asks for more is asked on the next night."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Seconds to connect, and of silence while reading."""
    max_video_s: float = Field(default=3600.0, gt=0)
    """Seconds that one file may take, all attempts together."""
    max_mb: int = Field(default=8192, ge=1)
    """Largest file in MB (10^6 bytes)."""
    redirects: int = Field(default=5, ge=0, le=20)
    """Redirects that are followed; each one is checked as the first address is."""
    allow_private: bool = False
    """Whether private, loopback and link-local addresses may be fetched from. With hostile lists this opens your
    network to them."""


class Passing(TransientError):
    """A failure that may pass, and how long its server asks to be left alone (seconds; None: it does not say)."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def attempted(work: Callable[[], T], limits: FetchLimits, deadline: Deadline) -> T:
    """Call ``work`` until it succeeds, fails for good, or has failed passingly as often as the limits allow.

    Raises:
        TransientError: the last passing failure; also when the wait would be too long, or end after the deadline.
    """
    for attempt in range(1, limits.attempts + 1):
        try:
            return work()
        except TransientError as error:
            asked = getattr(error, "retry_after_s", None)
            own = min(limits.backoff_s * 2 ** (attempt - 1) * random.uniform(1, 1.25), limits.max_wait_s)
            wait = own if asked is None else asked
            if attempt == limits.attempts or wait > limits.max_wait_s or not deadline.sleep(wait):
                raise
            logger.info("attempt %d of %d: %s; asked again after %.1f s", attempt, limits.attempts, error, wait)
    raise TransientError("no attempt was made")  # not reached: attempts is at least 1


class _Limit(Deadline):
    """A deadline that also bounds single waits on a socket."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        super().__init__(seconds, stop)
        self._over = time.monotonic() + seconds

    @contextlib.contextmanager
    def wait(self, timeout: float | None) -> Iterator[float]:
        """Yield the timeout, cut to the time left. Raise TransientError when that is over, before or after."""
        self.check()
        left = max(self._over - time.monotonic(), 0.001)
        try:
            yield left if timeout is None else min(timeout, left)
        except httpcore.TimeoutException:
            self.check()
            raise


class _Running(threading.local):
    """The limit of the fetch that this thread does: fetches share connections, and each has its own."""

    def __init__(self) -> None:
        self.limit = _Limit(math.inf)


class _LimitedStream(httpcore.NetworkStream):
    """A connection on which every wait is bounded, so that no server holds a fetch by answering bit by bit."""

    def __init__(self, stream: httpcore.NetworkStream, running: _Running) -> None:
        self._stream, self._running = stream, running

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._running.limit.wait(timeout) as seconds:
            return self._stream.read(max_bytes, seconds)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with self._running.limit.wait(timeout) as seconds:
            self._stream.write(buffer, seconds)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            with self._running.limit.wait(timeout) as seconds:
                return _LimitedStream(self._stream.start_tls(ssl_context, server_hostname, seconds), self._running)
        except TransientError:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _LimitedSockets(httpcore.SyncBackend):
    """Connects within the limit, and keeps to it on what it connected."""

    def __init__(self, running: _Running) -> None:
        self._running = running

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        with self._running.limit.wait(timeout) as seconds:
            stream = super().connect_tcp(host, port, seconds, local_address, socket_options)
        return _LimitedStream(stream, self._running)


class WebClient:
    """A client that all threads of one ingest share.

    Names are resolved once for each connection and the address that was checked is the one connected to, so a name
    cannot point elsewhere in between. Certificates are verified. Proxies of the environment are not used: behind
    one, the check would be worth nothing. No cookies, no decompression.
    """

    def __init__(self, limits: FetchLimits, stop: threading.Event | None = None) -> None:
        self._limits, self._stop = limits, stop
        self._pace = Pace(limits.requests_per_s, limits.burst)
        self._running = _Running()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where()),
            max_connections=64,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(_LimitedSockets(self._running), allow_private=limits.allow_private),
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def fetch(self, url: str, path: Path) -> Fetched:
        """Fetch ``url`` into ``path``, going on from the bytes that an earlier attempt left there.

        Raises:
            RefusedError: the address, or one it redirects to, is not allowed.
            TooLargeError: it has more bytes than allowed.
            FetchError: the server says no, or the address makes no sense.
            TransientError: it fails in a way that may pass, as often as the limits allow.
            StorageError: the local disk refuses.
        """
        split_url(url)
        deadline = self._running.limit = _Limit(self._limits.max_video_s, self._stop)
        with Partial(path, max_bytes=self._limits.max_mb * 1_000_000, deadline=deadline) as partial:
            return attempted(lambda: self._attempt(url, partial), self._limits, deadline)

    def _attempt(self, url: str, partial: Partial) -> Fetched:
        authorization = basic_auth(split_url(url))
        origin = _origin(split_url(url))
        for _ in range(self._limits.redirects + 1):
            parts = split_url(url)
            headers = {"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
            if authorization and _origin(parts) == origin:
                headers["Authorization"] = authorization
            if partial.size and partial.validator:
                headers |= {"Range": f"bytes={partial.size}-", "If-Range": partial.validator}
            target = self._answer(parts, headers, partial)
            if target is None:
                return partial.finish()
            url = _redirected(url, target)
        raise FetchError(f"more than {self._limits.redirects} redirects")

    def _answer(self, parts: SplitResult, headers: dict[str, str], partial: Partial) -> str | None:
        """Ask once. Return where a redirect leads, or None when the partial file is whole."""
        host = parts.hostname or ""
        self._pace.wait(host)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._limits.timeout_s)
        try:
            address = _address(parts)
            sent = [("Host", _host(address)), *((name, value.encode("latin-1")) for name, value in headers.items())]
            with self._pool.stream("GET", address, headers=sent, extensions={"timeout": timeouts}) as answer:
                told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
                if answer.status in _REDIRECTS and told.get("location"):
                    return told["location"]
                if self._begin(answer.status, told, partial, host):
                    for chunk in answer.iter_stream():
                        partial.write(chunk)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise FetchError(f"the certificate of {host} is not valid: {error}") from error
            raise Passing(f"{host}: {str(error) or type(error).__name__}") from error
        except (UnicodeError, ValueError) as error:
            raise FetchError(f"{host}: {error}") from error
        return None

    def _begin(self, status: int, fields: Mapping[str, str], partial: Partial, host: str) -> bool:
        """Prepare the partial file for the body that follows; False when it is whole already.

        An answer that brings no bytes of the file is raised.
        """
        if status == 206:
            span = _CONTENT_RANGE.fullmatch(fields.get("content-range", "").strip())
            if span is None or int(span[1]) != partial.size:
                partial.restart(None)
                raise Passing(f"{host} sends another part of the file than it was asked for")
            partial.expect(int(span[2]) if span[2] != "*" else None)
            return True
        if status == 200:  # the whole: the file changed, or the server knows no ranges
            partial.restart(_validator(fields))
            length = fields.get("content-length", "")
            partial.expect(int(length) if length.isdecimal() else None)
            return True
        if status == 416:
            if partial.size and fields.get("content-range", "").strip() == f"bytes */{partial.size}":
                return False
            partial.restart(None)
            raise Passing(f"{host} has no such part of the file")
        if status in PASSING_STATUS or status >= 500:
            wait = _retry_after(fields.get("retry-after"))
            if wait is not None:
                self._pace.pause(host, min(wait, self._limits.max_wait_s))
            raise Passing(f"{host} answers {status}", wait)
        raise FetchError(f"{host} answers {status}")


def _address(parts: SplitResult) -> httpcore.URL:
    """Return an address as it is asked for: ASCII alone. UnicodeError where a name cannot be written so."""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = _UNSAFE.sub(lambda match: quote(match[0]), target)
    host = (parts.hostname or "").encode("idna")
    return httpcore.URL(scheme=parts.scheme.lower(), host=host, port=parts.port, target=target.encode())


def _host(address: httpcore.URL) -> bytes:
    """Return the Host header's value."""
    host = b"[%b]" % address.host if b":" in address.host else address.host
    return host if address.port is None else b"%b:%d" % (host, address.port)


def _redirected(url: str, location: str) -> str:
    """Return where a ``Location`` header leads from ``url``."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()  # headers are read as Latin-1, and most addresses are UTF-8
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError:
        raise FetchError(f"{shown_url(url)} redirects to an address that cannot be understood") from None
    if urlsplit(url).scheme == "https" and scheme == "http":
        raise RefusedError(f"{shown_url(url)} redirects from https to http")
    return _BLANK.sub(lambda match: quote(match[0]), target)


def _validator(fields: Mapping[str, str]) -> str | None:
    """What ``If-Range`` may name: a strong ETag, else the date of change; None where the server tells neither."""
    if fields.get("accept-ranges", "").lower() == "none":
        return None
    etag = fields.get("etag", "")
    return etag if etag.startswith('"') else fields.get("last-modified")


def _retry_after(text: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for, as a number or as a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme.lower(), parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
