"""Downloads from a real server on loopback that misbehaves in every way that the internet does."""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from infra import partial
from infra.download import FetchLimits, WebClient
from infra.errors import FetchError, RefusedError, StorageError, TooLargeError, TransientError
from infra.pace import Pace
from tests.support.web_server import Page, WebServer, web_server

BODY = bytes(range(256)) * 400
QUICK = {"backoff_s": 0.0, "requests_per_s": 1000.0, "burst": 1000, "allow_private": True, "timeout_s": 5.0}


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def _fetch(server: WebServer, path: str, into: Path, **limits: Any) -> bytes:
    client = WebClient(FetchLimits(**{**QUICK, **limits}))
    try:
        fetched = client.fetch(f"{server.url}{path}", into)
    finally:
        client.close()
    data = fetched.path.read_bytes()
    assert (fetched.sha256, fetched.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    return data


def test_a_file_arrives_whole_with_its_digest(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: bytes decoded, lost or hashed wrongly; a server that names no length."""
    server.pages = {"/a": Page(BODY), "/b%20c": Page(BODY, length=False, etag=False), "/empty": Page(b"")}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    assert _fetch(server, "/b%20c", tmp_path / "b") == BODY
    assert _fetch(server, "/empty", tmp_path / "c") == b""
    assert server.asked[0][1]["accept-encoding"] == "identity"


def test_a_broken_download_goes_on_where_it_stopped_also_in_another_process(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a film of gigabytes fetched from the start for every dropped connection; a gap or overlap in it."""
    page = Page(BODY, break_after=30_000, breaks=2)
    server.pages = {"/a": page}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    assert server.sent["/a"] == len(BODY)
    page.breaks = 1
    with pytest.raises(TransientError):
        _fetch(server, "/a", tmp_path / "b", attempts=1)
    assert _fetch(server, "/a", tmp_path / "b") == BODY
    assert server.asked[-1][1]["range"] == "bytes=30000-"


@pytest.mark.parametrize("how", ["no ranges", "no validator", "changed", "whole already"])
def test_what_cannot_be_resumed_begins_anew(server: WebServer, tmp_path: Path, how: str) -> None:
    """Bug caught: two versions of a file glued together, or the whole appended to its own beginning."""
    page = Page(BODY, break_after=30_000, breaks=1, ranges=how != "no ranges", etag=how != "no validator")
    server.pages = {"/a": page}
    if how == "whole already":
        _fetch(server, "/a", tmp_path / "a")
    else:
        with pytest.raises(TransientError):
            _fetch(server, "/a", tmp_path / "a", attempts=1)
    if how == "changed":
        page.body = BODY[::-1]
    assert _fetch(server, "/a", tmp_path / "a") == page.body


def test_another_part_than_was_asked_for_is_not_glued_on(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a server that ignores where the part begins, and a film with its beginning in its middle."""
    server.pages = {"/a": Page(BODY, break_after=30_000, breaks=1)}
    with pytest.raises(TransientError):
        _fetch(server, "/a", tmp_path / "a", attempts=1)
    whole = {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"}
    server.pages = {"/a": Page(BODY, status=206, headers=whole)}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    assert [fields.get("range") for _, fields in server.asked] == [None, "bytes=30000-", None]


def test_a_weak_etag_does_not_vouch_for_bytes(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a download resumed on a version whose bytes are others, since a weak ETag is of the meaning alone."""
    date = "Mon, 01 Jan 2001 00:00:00 GMT"
    server.pages = {"/a": Page(BODY, headers={"ETag": 'W/"x"', "Last-Modified": date}, break_after=30_000, breaks=1)}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    assert server.asked[-1][1]["if-range"] == date


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again_and_others_are_not(server: WebServer, tmp_path: Path, status: int) -> None:
    """Bug caught: a busy server taken for a dead link; a dead link asked again and again."""
    server.pages = {"/a": Page(BODY, before=[(status, {})] * 2), "/gone": Page(status=410), "/no": Page(status=403)}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    for path in ("/gone", "/no", "/absent"):
        with pytest.raises(FetchError, match="answers 4"):
            _fetch(server, path, tmp_path / "b")
        assert server.count(path) == 1
    server.pages["/a"].before = [(status, {})] * 9
    with pytest.raises(TransientError, match=str(status)):
        _fetch(server, "/a", tmp_path / "c", attempts=3)
    assert len(server.pages["/a"].before) == 6


def test_retry_after_is_honoured_in_seconds_and_as_a_date(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a server that asks for a minute's rest hammered every second, or waited for all night."""
    waited: list[float] = []
    monkeypatch.setattr(partial.Deadline, "sleep", lambda self, seconds: waited.append(seconds) or True)
    monkeypatch.setattr(Pace, "pause", lambda self, host, seconds: None)
    date = format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=50), usegmt=True)
    past = "Mon, 01 Jan 2001 00:00:00 GMT"
    for text, least, most in (("7", 7, 7), (date, 45, 50), (past, 0, 0), ("soon", 0, 0)):
        server.pages = {"/a": Page(BODY, before=[(503, {"Retry-After": text})])}
        _fetch(server, "/a", tmp_path / "a")
        assert least <= waited.pop() <= most
    server.pages = {"/a": Page(BODY, before=[(429, {"Retry-After": "86400"})])}
    with pytest.raises(TransientError):
        _fetch(server, "/a", tmp_path / "b")
    assert waited == []


def test_a_busy_host_is_left_alone_by_every_fetch(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: one thread that rests as it was told to, and all others that go on asking."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("infra.download.Pace", functools.partial(Pace, clock=lambda: now[0], sleep=sleep))
    server.pages = {"/busy": Page(before=[(429, {"Retry-After": "7"})]), "/b": Page(BODY)}
    client = WebClient(FetchLimits(**QUICK | {"attempts": 1}))
    with pytest.raises(TransientError, match="429"):
        client.fetch(f"{server.url}/busy", tmp_path / "a")
    assert client.fetch(f"{server.url}/b", tmp_path / "b").bytes == len(BODY)
    client.close()
    assert slept == [7.0]


def test_too_large_is_noticed_before_and_while_it_comes(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a disk filled by a server that names no length, or a wrong one."""
    server.pages = {"/said": Page(bytes(1_000_001)), "/unsaid": Page(bytes(1_000_001), length=False)}
    for path in server.pages:
        with pytest.raises(TooLargeError, match=r"fetch\.max_mb"):
            _fetch(server, path, tmp_path / "a", max_mb=1)
    assert (tmp_path / "a").stat().st_size <= 1_000_000


def test_a_server_that_trickles_costs_its_time_limit_and_no_more(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a thread that hangs for days on a byte a second, each of which resets the timeout."""
    server.pages = {"/a": Page(BODY, stall_s=0.1)}
    with pytest.raises(TransientError, match="max_video_s"):
        _fetch(server, "/a", tmp_path / "a", max_video_s=0.5)


_DRIPS = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "header fields": (b"HTTP/1.1 200 OK\r\n", b"X-A: 1\r\n"),
    "chunk sizes": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "nothing": (b"", b""),
}


@contextlib.contextmanager
def _dripping(how: str, certificate: Path | None = None, asked: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Run a server that answers its one client so, ten times a second for eight seconds, and yield its port."""
    first, drip = _DRIPS[how]

    def serve() -> None:
        with contextlib.suppress(OSError), contextlib.closing(listening.accept()[0]) as raw:
            client = raw
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate)
                client = context.wrap_socket(raw, server_side=True)
            client.sendall(first)
            asked()
            for _ in range(80):
                if gone.wait(0.1):
                    break
                client.sendall(drip)

    gone = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        gone.set()
    thread.join(10)


@pytest.mark.parametrize("how", _DRIPS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_gets_to_the_body_costs_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, scheme: str
) -> None:
    """Bug caught: a limit that only bytes of the body run into; one that ends where TLS begins."""
    pem = _self_signed(tmp_path / "server.pem") if scheme == "https" else None
    monkeypatch.setenv("SSL_CERT_FILE", str(pem or ""))
    with _dripping(how, pem) as port:
        _ends_early(f"{scheme}://127.0.0.1:{port}/a", tmp_path / "a", "max_video_s")


def test_a_server_that_is_silent_about_its_certificate_costs_the_same(tmp_path: Path) -> None:
    """Bug caught: a limit that does not hold while TLS is agreed on."""
    with _dripping("nothing") as port:
        _ends_early(f"https://127.0.0.1:{port}/a", tmp_path / "a", "max_video_s")


def _ends_early(url: str, into: Path, why: str, stop: threading.Event | None = None) -> None:
    begun = time.monotonic()
    limits = {**QUICK, "max_video_s": 60.0 if stop else 0.5, "timeout_s": 60.0}
    client = WebClient(FetchLimits(**limits), stop)
    with pytest.raises(TransientError, match=why):
        client.fetch(url, into)
    assert time.monotonic() - begun < 5


def test_a_connection_that_is_used_again_has_the_limit_of_the_fetch_that_uses_it(
    server: WebServer, tmp_path: Path
) -> None:
    """Bug caught: the second film of a host ended by the time that the first one had."""
    server.pages = {"/a": Page(BODY)}
    client = WebClient(FetchLimits(**QUICK | {"max_video_s": 1.0, "attempts": 1}))
    assert client.fetch(f"{server.url}/a", tmp_path / "a").bytes == len(BODY)
    time.sleep(1.1)
    assert client.fetch(f"{server.url}/a", tmp_path / "b").bytes == len(BODY)
    client.close()


def test_a_stop_ends_an_answer_that_drips(tmp_path: Path) -> None:
    """Bug caught: an ingest that Ctrl-C cannot end while one server sends header after header."""
    stop = threading.Event()
    with _dripping("header fields", asked=lambda: threading.Timer(0.2, stop.set).start()) as port:
        _ends_early(f"http://127.0.0.1:{port}/a", tmp_path / "a", "it was stopped", stop)


def test_redirects_are_followed_bounded_and_each_checked(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: an endless loop; a redirect into another scheme; credentials carried to another host."""
    with web_server() as other:
        other.pages = {"/b": Page(BODY)}
        server.pages = {
            "/a": Page(status=302, headers={"Location": f"{other.url}/b"}),
            "/loop": Page(status=301, headers={"Location": "/loop"}),
            "/file": Page(status=302, headers={"Location": "file:///etc/passwd"}),
        }
        secret = server.url.replace("//", "//me:word@") + "/a"
        assert WebClient(FetchLimits(**QUICK)).fetch(secret, tmp_path / "a").bytes == len(BODY)
        assert server.asked[-1][1]["authorization"].startswith("Basic ")
        assert "authorization" not in other.asked[-1][1]
    with pytest.raises(FetchError, match="more than 3 redirects"):
        _fetch(server, "/loop", tmp_path / "b", redirects=3)
    assert server.count("/loop") == 4
    with pytest.raises(FetchError, match="not http"):
        _fetch(server, "/file", tmp_path / "c")


@pytest.mark.parametrize("location", ["http://[x", "//[x", "http://a]/b", "http://h:port/", "http://h:99999/"])
def test_a_redirect_that_makes_no_sense_is_a_failure_of_its_video_alone(
    server: WebServer, tmp_path: Path, location: str
) -> None:
    """Bug caught: one hostile answer that ends the whole ingest with a traceback; a password shown in what it says."""
    server.pages = {"/a?key=hidden": Page(status=302, headers={"Location": location})}
    secret = server.url.replace("//", "//me:word@") + "/a?key=hidden"
    with pytest.raises(FetchError, match="cannot be understood") as caught:
        WebClient(FetchLimits(**QUICK)).fetch(secret, tmp_path / "a")
    assert "word" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_names_of_any_alphabet_are_fetched_from_and_redirected_to(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: one international address that ends the whole ingest; names and paths garbled by a redirect."""
    real = socket.getaddrinfo
    ascii_name = "xn--mnchen-3ya.example"
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if host == ascii_name else host, *a, **k)
    )
    there = f"http://münchen.example:{server.port}"
    utf8 = f"{there}/ü b".encode().decode("latin-1")  # a server writes bytes, and most write UTF-8
    server.pages = {"/a": Page(status=302, headers={"Location": utf8}), "/%C3%BC%20b": Page(BODY)}
    client = WebClient(FetchLimits(**QUICK))
    for url in (f"{there}/ü%20b", f"{server.url}/a"):
        (tmp_path / "a").unlink(missing_ok=True)
        assert client.fetch(url, tmp_path / "a").bytes == len(BODY)
        assert server.asked[-1][1]["host"] == f"{ascii_name}:{server.port}"
    client.close()
    with pytest.raises(FetchError, match="label"):
        client.fetch(f"http://{'ü' * 64}.example/a", tmp_path / "b")


def test_what_a_server_says_of_its_file_cannot_end_the_ingest(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a traceback from a validator that is not ASCII, or from a date that no calendar has."""
    date = "Mon, 01 Jan 99999999999 00:00:00 GMT"
    page = Page(BODY, headers={"ETag": '"ü"'}, break_after=30_000, breaks=1, before=[(503, {"Retry-After": date})])
    server.pages = {"/a": page}
    assert _fetch(server, "/a", tmp_path / "a") == BODY
    assert server.asked[-1][1]["if-range"] == '"ü"'


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_refused_however_they_are_written(server: WebServer, tmp_path: Path, host: str) -> None:
    """Bug caught: a list from outside that reads the services of the machine it is ingested on."""
    server.pages = {"/a": Page(BODY)}
    client = WebClient(FetchLimits(**{**QUICK, "allow_private": False}))
    with pytest.raises((RefusedError, TransientError), match=r"no public address|does not resolve"):
        client.fetch(f"http://{host}:{server.port}/a", tmp_path / "a")
    assert server.asked == []


def test_the_address_that_was_checked_is_the_one_connected_to(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a name that is public when it is checked and private when it is connected to (DNS rebinding)."""
    real, asked = socket.getaddrinfo, []

    def resolver(host: str, *args: Any, **kwargs: Any) -> Any:
        if host.endswith(".example"):
            asked.append(host)
            private = host == "private.example" or len(asked) > 1
            return real("127.0.0.1" if private else "192.0.2.1", *args, **kwargs)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    server.pages = {"/a": Page(BODY)}
    monkeypatch.setattr("infra.addresses.is_public", lambda address: address == "192.0.2.1")
    connected = []
    monkeypatch.setattr(socket, "create_connection", lambda at, *_, **__: connected.append(at) or _refuse())
    client = WebClient(FetchLimits(**{**QUICK, "allow_private": False, "attempts": 1}))
    with pytest.raises(TransientError):
        client.fetch(f"http://rebinding.example:{server.port}/a", tmp_path / "a")
    assert (asked, connected) == (["rebinding.example"], [("192.0.2.1", server.port)])
    with pytest.raises(RefusedError):
        client.fetch(f"http://private.example:{server.port}/a", tmp_path / "a")
    assert server.asked == []


def _refuse() -> Any:
    raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")


def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: TLS that is not verified; and a company's own authority that cannot be named."""
    pem = _self_signed(tmp_path / "server.pem")
    with WebServer(pem) as server:
        server.pages = {"/a": Page(BODY)}
        with pytest.raises(FetchError, match="certificate"):
            _fetch(server, "/a", tmp_path / "a")
        assert server.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert _fetch(server, "/a", tmp_path / "b") == BODY
        with pytest.raises(FetchError, match="certificate"):  # the name still counts: it is valid for 127.0.0.1 alone
            WebClient(FetchLimits(**QUICK)).fetch(f"https://localhost:{server.port}/a", tmp_path / "c")


def test_a_redirect_that_gives_up_encryption_is_refused(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a film, and whatever its address tells, in the clear because a server said so."""
    pem = _self_signed(tmp_path / "server.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    server.pages = {"/a": Page(BODY)}
    with WebServer(pem) as secure:
        secure.pages = {"/a": Page(status=302, headers={"Location": f"{server.url}/a"})}
        with pytest.raises(RefusedError, match="from https to http"):
            _fetch(secure, "/a", tmp_path / "a")
    assert server.asked == []


def _self_signed(path: Path) -> Path:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path


def test_a_full_disk_is_the_machines_trouble_and_not_the_videos(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a night of good videos rejected because the cache folder cannot be written."""
    (tmp_path / "file").write_bytes(b"")
    server.pages = {"/a": Page(BODY)}
    with pytest.raises(StorageError, match=r"fetch\.cache"):
        _fetch(server, "/a", tmp_path / "file" / "a")
    if os.path.exists("/dev/full"):
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"fetch\.cache"):
            _fetch(server, "/a", tmp_path / "full")


def test_a_stop_ends_a_wait_at_once(server: WebServer, tmp_path: Path) -> None:
    """Bug caught: an ingest that ends only minutes after Ctrl-C, when every thread's wait is over."""
    server.pages = {"/a": Page(BODY, before=[(503, {"Retry-After": "100"})])}
    stop, begun = threading.Event(), time.monotonic()

    def stop_when_asked() -> None:
        while not server.count("/a"):
            time.sleep(0.01)
        time.sleep(0.3)  # by then it waits
        stop.set()

    threading.Thread(target=stop_when_asked, daemon=True).start()
    with pytest.raises(TransientError):
        WebClient(FetchLimits(**QUICK), stop).fetch(f"{server.url}/a", tmp_path / "a")
    assert server.count("/a") == 1
    assert time.monotonic() - begun < 10
    with pytest.raises(TransientError, match="it was stopped"):
        WebClient(FetchLimits(**QUICK), stop).fetch(f"{server.url}/a", tmp_path / "a")
    assert server.count("/a") == 1
