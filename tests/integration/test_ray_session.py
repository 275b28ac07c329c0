"""Our own Ray: who can reach it, and what is left of it."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import ConfigError
from infra.ray_session import AUTH_MODE, CLUSTERS, ray_session

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]


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
    """Bug caught: ports on all interfaces, at which anybody on the network runs code as this user; things that stay."""
    import ray

    mode = os.environ.get(AUTH_MODE)

    with ray_session(1) as cpus:
        assert cpus == 1
        ray.get(ray.remote(num_cpus=0.1)(lambda: 1).remote())
        addresses = _listening()
        assert addresses
        loopback = [ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback for address in addresses]
        assert all(loopback), addresses
        folder = Path(_session())
        assert (folder / "logs").is_dir()
        with ray_session() as inner:  # attaches, and leaves it running
            assert inner == 1
        assert ray.is_initialized()
    assert not ray.is_initialized()
    assert not folder.exists()
    assert os.environ.get(AUTH_MODE) == mode


def test_what_ray_wrote_is_kept_where_the_work_failed() -> None:
    """Bug caught: the one log that tells why, deleted."""
    folders = []

    def work() -> None:
        with ray_session(1):
            folders.append(_session())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert Path(folders[0], "logs").is_dir()
    shutil.rmtree(folders[0])


def _session() -> str:
    import ray

    return str(ray._private.worker._global_node.get_session_dir_path())


def test_an_address_where_no_cluster_answers_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: minutes of Ray's own messages before a traceback."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(ConfigError, match="no Ray cluster answers at RAY_ADDRESS=127"), ray_session():
            pass


class Head:
    """A cluster of one machine, started as ``marlin up`` and compose do, with a home of its own for Ray's token."""

    def __init__(self, folder: Path, ip: str, *, token: str, **variables: str) -> None:
        with socket.create_server((ip, 0)) as unused:
            self.address = f"{ip}:{unused.getsockname()[1]}"
        self.folder, self.home = folder / "ray", folder / "home"
        (self.home / ".ray").mkdir(parents=True)
        if token:
            (self.home / ".ray" / "auth_token").write_text(token)
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--node-ip-address={ip}",
            f"--port={self.address.rpartition(':')[2]}", "--num-cpus=1", "--object-store-memory=100000000",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={self.folder}", "--min-worker-port=0",
            "--max-worker-port=0",
        ]  # fmt: skip
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment(**variables), stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while not (self.folder / "ray_current_cluster").exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.2)

    def environment(self, **variables: str) -> dict[str, str]:
        """Variables of a process of this user."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(ROOT), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
                **variables}  # fmt: skip

    def drive(self, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a driver in a process of its own."""
        environment = self.environment(RAY_ADDRESS=self.address, **variables)
        command = [*before, sys.executable, "-c", DRIVER]
        return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=200)

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(60)


DRIVER = """
import os
import ray
from infra.errors import ConfigError
from infra.ray_session import ray_session
try:
    with ray_session() as cpus:
        # an object in the driver's own store, and a task that shows the driver's address a token or none
        total = ray.get(ray.remote(lambda rows: len(rows)).remote(ray.put(b"0" * 1_000_000)), timeout=90)
        alive = [node for node in ray.nodes() if node["Alive"]]
        print(cpus, total, len(alive), ray.data.range(4).map_batches(lambda rows: rows).count())
except ConfigError as error:
    print("ConfigError:", error)
print(os.environ.get("RAY_AUTH_MODE"))
"""
HIDDEN = ("unshare", "--map-root-user", "--mount", "bash", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head that asks for a token, at an address that Ray takes for a machine's in a network."""
    with tempfile.TemporaryDirectory(prefix="ray-head-", dir="/tmp") as folder:
        made = Head(Path(folder), "127.0.0.2", token="letters0and1digits")
        yield made
        made.stop()


@pytest.mark.slow
def test_a_driver_on_a_machine_that_is_no_node_joins_and_leaves(head: Head) -> None:
    """Bug caught: in a container beside the cluster's, Ray finds no node to speak to, or aborts the process."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this user may not hide a folder from a process (unshare)")
    done = head.drive(*HIDDEN, str(head.folder))
    assert done.stdout.splitlines() == ["1 1000000 2 4", "None"], done.stderr
    assert not list(Path("/tmp").glob("ray-node-*"))
    beside = head.drive()  # the node itself, and the one that left is gone
    assert beside.stdout.splitlines() == ["1 1000000 1 4", "None"], beside.stderr


@pytest.mark.slow
def test_a_driver_shows_a_token_where_the_cluster_asks_for_one(head: Head) -> None:
    """Bug caught: with Ray's token in the home, `ray start` asks for it and a driver with an address shows none."""
    done = head.drive()
    assert done.stdout.splitlines() == ["1 1000000 1 4", "None"], done.stderr
    (empty := head.home.parent / "empty").mkdir()
    for variables in ({}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "disabled"}):
        done = head.drive(**{"HOME": str(empty)} | variables)
        assert "ConfigError: the Ray cluster at RAY_ADDRESS=127.0.0.2" in done.stdout, (variables, done.stderr)
        assert "asks for a token that this user does not have" in done.stdout


@pytest.mark.slow
def test_a_driver_with_a_token_attaches_to_a_cluster_on_loopback_that_has_none() -> None:
    """Bugs caught: a driver that wants to be shown a token waits for ever; 127.0.0.1 replaced by a public address."""
    with tempfile.TemporaryDirectory(prefix="ray-head-", dir="/tmp") as folder:
        free = Head(Path(folder), "127.0.0.1", token="", **{CLUSTERS: "0"})
        try:
            token = Path(folder, "another", ".ray", "auth_token")
            token.parent.mkdir(parents=True)
            token.write_text("letters0and1digits")
            done = free.drive(HOME=f"{folder}/another")
            assert done.stdout.splitlines() == ["1 1000000 1 4", "None"], done.stderr
            if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode == 0:
                hidden = free.drive(*HIDDEN, str(free.folder))
                assert "no node can be spoken to from here; name it by" in hidden.stdout, hidden.stderr
        finally:
            free.stop()
