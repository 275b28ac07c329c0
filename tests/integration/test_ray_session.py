"""Our own Ray: who can reach it, and what is left of it."""

from __future__ import annotations

import ipaddress
import socket

import psutil
import pytest

from infra.errors import ConfigError
from infra.ray_session import ray_session

pytestmark = pytest.mark.timeout(240)


def _listening() -> set[str]:
    """Addresses that this process and its descendants listen on."""
    me = psutil.Process()
    found = set()
    for process in (me, *me.children(recursive=True)):
        try:
            found |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_ray_of_our_own_is_reachable_from_this_machine_only_and_stops() -> None:
    """Bug caught: ports on all interfaces, at which anybody on the network runs code as this user."""
    import ray

    with ray_session(1) as cpus:
        assert cpus == 1
        ray.get(ray.remote(num_cpus=0.1)(lambda: 1).remote())
        addresses = _listening()
        assert addresses
        loopback = [ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback for address in addresses]
        assert all(loopback), addresses
        with ray_session() as inner:  # attaches, and leaves it running
            assert inner == 1
        assert ray.is_initialized()
    assert not ray.is_initialized()


def test_an_address_where_no_cluster_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: minutes of Ray's own messages before a traceback."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(ConfigError, match="no Ray cluster answers at RAY_ADDRESS=127"), ray_session():
            pass
