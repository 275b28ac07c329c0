"""``marlin up``: what it does not touch, and how it knows its own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows import platform
from flows.deploy_config import DeployConfig, PoolConfig
from flows.processes import Keeper, Part, alone
from infra.errors import ProjectError
from pipeline.config import IngestConfig

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
AT_WORK = [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"]


class Healthy(BaseHTTPRequestHandler):
    """Says that it is well, as any Prefect server does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def others_port() -> Iterator[int]:
    """Port of a Prefect server of somebody else."""
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_up_does_not_adopt_the_server_of_another(others_port, tmp_path, monkeypatch):
    """Catches pools overwritten and deployments deleted on a server that somebody else runs on the same port."""
    prefect = tmp_path / "prefect"
    prefect.write_text("#!/bin/sh\nsleep 600\n")
    prefect.chmod(0o755)
    told: list[DeployConfig] = []
    monkeypatch.setattr("flows.deploy.deploy", lambda cfg, home: told.append(cfg) or [])
    monkeypatch.setattr(platform, "_prefect", lambda: str(prefect))
    monkeypatch.setattr(platform, "environment", lambda cfg: {})
    monkeypatch.setattr(platform, "_after_deploying", lambda cfg, file: [])
    cfg = DeployConfig(work=str(tmp_path / "work"), port=others_port)
    try:
        with pytest.raises(ProjectError, match=rf"server is not started: .*:{others_port}; .* set port to another"):
            platform.up(cfg)
    finally:
        Keeper(tmp_path / "work").end(platform.SERVER)
    assert told == []


def test_a_timer_that_comes_while_down_is_at_work_starts_nothing(marlin, tmp_path, monkeypatch):
    """Catches a worker that is started while `down` waits, which ends it not, or forgets it."""
    monkeypatch.setattr(platform, "_before_deploying", lambda cfg, work: pytest.fail("something is started"))
    with alone(tmp_path / "work", wait=False):
        said = marlin("up", "work=work")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"nothing is started: another `marlin up` or `marlin down` of {tmp_path}/work is at work\n"
    assert not (tmp_path / "work" / "deploy.yaml").exists()


def test_down_waits_for_another(marlin, tmp_path, monkeypatch):
    """Catches a second `down` that says "nothing ran" while the first waits for a training that saves."""
    order = []
    monkeypatch.setattr(Keeper, "end", lambda keeper, name: order.append(name))
    with alone(tmp_path / "work", wait=False):
        second = threading.Thread(target=platform.down, args=[DeployConfig(work=str(tmp_path / "work"))])
        second.start()
        second.join(1)
        assert second.is_alive()
        order.append("first")
    second.join()
    assert order[:2] == ["first", platform.SENSOR]


def test_down_where_nothing_ever_ran_leaves_no_folder(marlin, tmp_path):
    """Catches a lock made in a place that was misspelt."""
    assert marlin("down", "work=nowhere").out == "nothing ran\n"
    assert list(tmp_path.iterdir()) == []


def test_without_sources_no_sensor_is_started(tmp_path):
    """Catches `up` that starts a sensor which ends at once, each time the timer calls it."""
    names = [
        {part.name for part in platform._after_deploying(cfg, tmp_path / "deploy.yaml")}
        for cfg in (DeployConfig(), DeployConfig(ingest=IngestConfig(sources=("videos",))))
    ]
    assert names[1] - names[0] == {platform.SENSOR}


def test_each_part_that_serves_says_where_and_by_which_setting(tmp_path, monkeypatch):
    """Catches a store or cluster of somebody else that is taken for ours, and a cure that names the wrong setting."""
    monkeypatch.setattr("shutil.which", lambda name: name)
    cfg = DeployConfig(port=4201, ray_port=6380, store_port=9001)
    for part in platform._before_deploying(cfg, tmp_path):
        assert part.ready is not None
        assert part.address is not None
        assert getattr(cfg, part.setting) == part.address[1]


def test_the_server_forgets_old_runs(tmp_path):
    """Catches a database that grows for ever; also a name or value that Prefect does not know, which it ignores."""
    from prefect.settings.models.server.services import ServerServicesDBVacuumSettings as Vacuum

    cfg = DeployConfig(work=str(tmp_path))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in platform.environment(cfg).items():
            patched.setenv(name, value)
        assert Vacuum().enabled_vacuum_types == {"events", "flow_runs", "orphans"}


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """``marlin up`` whose parts sleep, and whose server is anybody's; a worker of ``busy`` is at work."""
    before, after = platform._before_deploying, platform._after_deploying
    busy: set[str] = set()

    def asleep(part: Part) -> Part:
        settings = {"command": list(part.command), **part.settings}
        return replace(part, command=AT_WORK if part.name in busy else SLEEP, ready=lambda: True, settings=settings)

    monkeypatch.setattr("flows.deploy.deploy", lambda cfg, home: [])
    monkeypatch.setattr(platform, "_before_deploying", lambda cfg, work: [asleep(part) for part in before(cfg, work)])
    monkeypatch.setattr(platform, "_after_deploying", lambda cfg, file: [asleep(part) for part in after(cfg, file)])
    settings = DeployConfig(work=str(tmp_path / "work"), ingest=IngestConfig(sources=("one",)), port=4299)
    for name, value in platform.environment(settings).items():
        monkeypatch.setenv(name, value)

    def run(at_work: str = "", **changes: object) -> list[str]:
        busy.update({at_work} - {""})
        lines = platform.up(settings.model_copy(update=changes))
        for name in busy:
            while not Keeper(tmp_path / "work").has_children(name):
                time.sleep(0.05)
        return [line for line in lines[:-1] if not line.startswith("deployed")]

    yield run
    for name in Keeper(tmp_path / "work").names():
        Keeper(tmp_path / "work").end(name)


def test_up_starts_again_what_was_started_with_other_settings_and_nothing_else(up):
    """Catches "runs sensor" of one that watches the former sources, and a restart of everything at each timer."""
    parts = ["server", "worker-marlin-ingest", "worker-marlin-train", "sensor"]
    assert up() == [f"started   {name}" for name in parts]
    assert up() == [f"runs      {name}" for name in parts]
    changed = up(ingest=IngestConfig(sources=("two",)))
    assert changed == [*(f"runs      {name}" for name in parts[:-1]), "restarted sensor"]
    sources = IngestConfig(sources=("two",))
    assert up(ingest=sources, environment={"A": "b"}) == [f"restarted {name}" for name in parts]


def test_what_a_run_at_work_needs_is_not_started_again(up):
    """Catches a training of three days that a changed setting kills."""
    up(at_work="worker-marlin-train")
    told = up(environment={"A": "b"})
    assert [line.split(" (")[0] for line in told] == [
        "runs      server", "restarted worker-marlin-ingest", "runs      worker-marlin-train", "restarted sensor",
    ]  # fmt: skip
    assert "with its former settings, as a run is at work" in told[2]
    with pytest.raises(ProjectError, match=r"server is to serve elsewhere .* set port back, or stop"):
        up(port=4298)


def test_a_server_moves_to_another_port_while_nothing_is_at_work(up):
    """Catches two minutes of waiting for the old server at the new port, and then its end."""
    up()
    assert up(port=4298)[0] == "restarted server"


def test_the_worker_of_a_pool_that_was_renamed_ends(up, tmp_path):
    """Catches a worker that nothing ends any more, also not `down`."""
    up()
    ingest = PoolConfig(name="other")
    assert "stopped   worker-marlin-ingest" in up(ingest_pool=ingest)
    up()
    ended = platform.down(DeployConfig(work=str(tmp_path / "work"), ingest_pool=ingest))
    assert ended == ["sensor", "worker-marlin-ingest", "worker-marlin-train", "server"]
    assert Keeper(tmp_path / "work").names() == []


def test_status_says_what_runs(up, marlin, tmp_path):
    """Catches a dead sensor that is found weeks later, and a check that says yes to nothing."""
    settings = [f"work={tmp_path / 'work'}", "port=4299", "ingest.sources=[one]"]
    said = marlin("status", *settings)
    assert (said.code, said.out.count("does not run"), said.err) == (1, 4, "")
    up()
    said = marlin("status", *settings)
    assert (said.code, said.out.count("runs   "), said.out.split()[-1]) == (0, 4, "http://127.0.0.1:4299")
    Keeper(tmp_path / "work").end("sensor")
    said = marlin("status", *settings)
    assert (said.code, "does not run     sensor" in said.out) == (1, True)
