"""Which addresses may be connected to."""

from __future__ import annotations

import socket

import pytest

from infra.addresses import is_public, resolve
from infra.errors import RefusedError


@pytest.mark.parametrize(
    ("address", "public"),
    [("8.8.8.8", True), ("2606:4700::1111", True), ("10.0.0.1", False), ("169.254.169.254", False),
     ("100.64.0.1", False), ("192.168.1.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("::", False),
     ("fe80::1", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
     ("2002:a00:1::", False), ("255.255.255.255", False), ("fec0::1", False), ("64:ff9b:1::7f00:1", False),
     ("::7f00:1", False), ("::ffff:0:7f00:1", False), ("3fff::1", False), ("5f00::1", False),
     ("64:ff9b::808:808", True), ("2002:808:808::1", True)],
)  # fmt: skip
def test_public_is_what_the_open_internet_routes(address: str, public: bool) -> None:
    """Bug caught: cloud metadata, carrier networks, or a private address inside an IPv6 one taken for public."""
    assert is_public(address) is public


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a public address put before a private one, which is connected to when the first does not answer."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(RefusedError, match=r"is at 10\.0\.0\.1, which is no public address"):
        resolve("mixed.example", 80, allow_private=False)
