"""Which network addresses may be connected to. A name is resolved once, and the address that was checked is used."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

from infra.errors import RefusedError, TransientError

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The IPv6 addresses that the open internet routes (IANA); those outside are local, reserved or obsolete."""
_DOCUMENTATION = ipaddress.ip_network("3fff::/20")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open internet.

    Private, loopback, link-local (cloud metadata), shared, multicast, unspecified and reserved ones are not, and no
    IPv6 address is that carries such an IPv4 address inside, or that lies outside of 2000::/3.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL_UNICAST or ip in _DOCUMENTATION:
            return False
    return ip.is_global and not ip.is_multicast


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the host's addresses, in the resolver's order.

    Raises:
        RefusedError: one of them is not public, and that is not allowed.
        TransientError: the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TransientError(f"the name {host} does not resolve ({error})") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private:
        for address in addresses:
            if not is_public(address):
                raise RefusedError(
                    f"{host} is at {address}, which is no public address; set fetch.allow_private=true if it is meant"
                )
    return list(dict.fromkeys(addresses))


class CheckedBackend(httpcore.NetworkBackend):
    """Connects to addresses that were checked, by ``sockets``. TLS above it verifies the name, and not the address."""

    def __init__(self, sockets: httpcore.NetworkBackend, *, allow_private: bool) -> None:
        self._sockets, self._allow_private = sockets, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of the host that answers; errors as ``resolve``, else httpcore's."""
        failure: Exception | None = None
        for address in resolve(host, port, allow_private=self._allow_private):
            try:
                return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or TransientError(f"the name {host} has no address")
