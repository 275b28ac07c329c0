"""A real server on its own, as ``marlin up`` starts it: killed and started again, and what it tells."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types._concurrency import ConcurrencyLeaseHolder

from flows.deploy import deploy
from flows.deploy_config import DeployConfig
from flows.platform import SERVER, _before_deploying, environment
from flows.processes import Keeper
from flows.tasks import CRAWL, GPU, LEASE_S, place_in

pytestmark = pytest.mark.timeout(600)


class Server:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.cfg = DeployConfig(work=str(folder), port=probe.getsockname()[1])
        self.keeper = Keeper(folder)
        self.home = folder / "prefect"

    def start(self) -> None:
        """Start it where it does not run."""
        (part,) = _before_deploying(self.cfg, Path(self.cfg.work))
        self.keeper.ensure(part)

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        process = self.keeper.running(SERVER)
        assert process is not None
        family = [process, *process.children(recursive=True)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=30)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a database of its own."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS", "1")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS", "1")
    made = Server(tmp_path / "work")
    for name, value in environment(made.cfg).items():
        monkeypatch.setenv(name, value)
    try:
        made.start()
        yield made
    finally:
        made.keeper.end(SERVER)


@pytest.fixture
def client(server: Server) -> Iterator[SyncPrefectClient]:
    """Speaks to it."""
    with temporary_settings({PREFECT_API_URL: server.cfg.api_url}), get_client(sync_client=True) as made:
        yield made


def taken(client: SyncPrefectClient, limit: str) -> int:
    """Places of a limit that are not free."""
    return client.read_global_concurrency_limit_by_name(limit).active_slots


def take(client: SyncPrefectClient, limit: str, holder: str = "task_run") -> uuid.UUID:
    """Take a place for a minute and return the lease."""
    told = client.increment_concurrency_slots_with_lease(
        [limit], 1, "concurrency", lease_duration=60, holder=ConcurrencyLeaseHolder(type=holder, id=uuid.uuid4())
    )
    return uuid.UUID(told.json()["lease_id"])


def lease_s(server: Server, lease: uuid.UUID) -> float:
    """Seconds for which a lease still lasts."""
    told: dict[str, Any] = json.loads((server.home / "concurrency_leases" / f"{lease}.json").read_text())
    return (datetime.fromisoformat(told["expiration"]) - datetime.now(UTC)) / timedelta(seconds=1)


def test_places_outlive_a_server_that_is_killed_and_lost_ones_are_given_back(server, client):
    """Catches a restart that ends every run, and a limit that is full of nobody for ever."""
    deploy(server.cfg, server.home)
    task, run = take(client, GPU), take(client, CRAWL, "flow_run")
    server.kill()
    server.start()
    client.renew_concurrency_lease(task, 60)
    client.renew_concurrency_lease(run, 300)
    assert lease_s(server, task) < 61
    assert lease_s(server, run) > 3000  # else a server that is away for five minutes ends the run
    client.release_concurrency_slots_with_lease(task)
    assert (taken(client, GPU), taken(client, CRAWL)) == (0, 1)

    # a place whose lease is lost, beside one that is held
    lost = take(client, GPU)
    (server.home / "concurrency_leases" / f"{lost}.json").unlink()
    deploy(server.cfg, server.home)
    assert (taken(client, GPU), taken(client, CRAWL)) == (0, 1)

    # leases that are somewhere else tell nothing of places
    take(client, GPU)
    shutil.rmtree(server.home / "concurrency_leases")
    deploy(server.cfg, server.home)
    deploy(server.cfg)
    assert (taken(client, GPU), taken(client, CRAWL)) == (1, 1)


def test_the_place_of_a_task_that_dies_is_free_when_its_lease_ends(server, client):
    """Catches a task's place that lasts as long as a deployment's: a killed training would keep the GPU for an hour."""
    deploy(server.cfg, server.home)

    @task
    def works() -> float:
        with place_in(GPU):
            assert taken(client, GPU) == 1
            (file,) = (server.home / "concurrency_leases").glob("*-*.json")
            return lease_s(server, uuid.UUID(file.stem))

    @flow
    def holds() -> float:
        return works()

    assert LEASE_S - 60 < holds() <= LEASE_S


def test_a_run_that_no_worker_takes_is_told_about(server, client, monkeypatch):
    """Catches silent nights: a dead worker, whose runs wait for ever and so never fail."""
    told: list[bytes] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        monkeypatch.setenv("MARLIN_WEBHOOK_URL", f"http://127.0.0.1:{hook.server_port}/")
        deploy(server.cfg)
        run = client.create_flow_run_from_deployment(client.read_deployment_by_name("ingest/marlin").id)
        end = time.monotonic() + 120
        while not told and time.monotonic() < end:
            time.sleep(0.5)
        hook.shutdown()
    assert [json.loads(body) for body in told] == [{"text": f"ingest run {run.name}: Late"}]
