"""The whole service: server, worker, sensor and Ray, real and on their own; only S3 is moto's, over HTTP.

A video is dropped, and everything else happens by itself: once, in spite of a machine that dies, and not again.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import pytest
import yaml

from flows.lineage import read_lineage
from flows.processes import Keeper
from flows.registry import Registry
from infra.metrics import read_metrics
from infra.storage import open_storage
from pipeline.dataset.versions import latest_version, list_versions
from tests.support.postgres import postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]
CANARY = "cAnArYsEcReT"
PATIENCE_S = 900
"""For one link of the chain; on an idle machine each takes a minute or less."""
MODEL = {
    "name": "marlin_vit_tiny",
    "overrides": {"image_size": 112, "encoder_dim": 48, "encoder_depth": 1, "encoder_heads": 2, "decoder_dim": 32,
                  "decoder_depth": 1},
}  # fmt: skip


class Platform:
    """``marlin up`` in a folder."""

    def __init__(self, folder: Path, sources: list[str]) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        pool = {"name": "marlin"}
        self.settings: dict[str, Any] = {
            "work": "platform", "port": self.port, "ingest_pool": pool, "train_pool": pool,
            "sensor": {"poll_s": 1, "debounce_s": 3}, "restart_after_s": 10, "outage_s": 60,
            "ingest": {"sources": sources, "out": "set", "shard_mb": 1, "workers": 1, "source_licence": "MIT",
                       "fetch": {"cache": str(folder / "cache")}},
            "improve": {
                "min_new_clips": 1, "gate": {"kind": "tolerance", "tolerance": 1},
                "pretrain": {
                    "model": MODEL, "data": {"dataset": "set", "workers": 1, "val_clips": 1}, "global_batch": 2,
                    "world_size": 1, "log_every": 1, "checkpoint": {"every_steps": 5},
                    "optim": {"total_clips": 80, "warmup_clips": 8},
                },
                "adapt": {
                    "task": "deepfake", "baseline": False, "pictures": 0, "finetune": {"enabled": False},
                    "probe": {"epochs": 5},
                    "data": {"max_windows": 64, "windows_per_clip": 16, "split": "time", "gap_frames": 0},
                },
            },
        }  # fmt: skip
        (folder / "deploy.yaml").write_text(yaml.safe_dump(self.settings))

    def marlin(self, command: str) -> str:
        """Run a command on this platform."""
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", command, "--config", "deploy.yaml"], cwd=self.folder, text=True,
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def api(self, path: str, **body: Any) -> Any:
        """Ask the server."""
        return httpx.post(f"http://127.0.0.1:{self.port}/api/{path}", json=body, timeout=300).json()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Flow runs that have begun."""
        wanted = {"flows": {"name": {"any_": [flow]}}}
        return [run for run in self.api("flow_runs/filter", **wanted) if run["state_type"] != "SCHEDULED"]

    def automations(self) -> dict[str, str]:
        """{name: id} of the automations."""
        return {found["name"]: found["id"] for found in self.api("automations/filter")}

    def wait(self, what: str, happened: Callable[[], Any]) -> Any:
        """Wait until something happened and return it."""
        end = time.monotonic() + PATIENCE_S
        while not (found := happened()):
            assert time.monotonic() < end, f"{what} did not happen\n{self.logs()}"
            assert not self.api("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["FAILED"]}}}), self.logs()
            time.sleep(2)
        return found

    def logs(self) -> str:
        """The ends of all logs, and what the server says of each run."""
        ends = [f"== {path.name}\n{path.read_text()[-1500:]}" for path in (self.folder / "platform").glob("*.log")]
        for flow in ("ingest", "improve", "pretrain", "adapt"):
            ends += [f"{flow}: {run['state_name']} {(run['state'] or {}).get('message')}" for run in self.runs(flow)]
        return "\n".join(ends)


@pytest.fixture
def platform(tmp_path: Path, bucket: str, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """Everything up; everything down at the end, whatever happened."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("MARLIN_WEBHOOK_URL", f"{webhook.url}/{CANARY}")
    for name in [name for name in os.environ if name.startswith("PREFECT_") or name == "RAY_ADDRESS"]:
        monkeypatch.delenv(name)
    (tmp_path / "videos").mkdir()
    made = Platform(tmp_path, [str(tmp_path / "videos"), f"s3://{bucket}/in"])
    with postgres() as database:
        if database is not None:  # else SQLite, which is slower
            monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
        try:
            yield made
        finally:
            made.marlin("down")


class Webhook:
    """Where failures are told: bodies of requests to the secret address."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == f"/{CANARY}":
                    bodies.append(body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A webhook that listens."""
    hook = Webhook()
    threading.Thread(target=hook.server.serve_forever, daemon=True).start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


def test_a_new_video_becomes_a_live_encoder_by_itself_and_once(
    platform: Platform, bucket: str, webhook: Webhook, sample_videos: Path
) -> None:
    """Catches any link of the chain that does not hold: see the steps."""
    folder = platform.folder
    registry, dataset = Registry(str(folder / "registry")), open_storage(str(folder / "set"))

    # up, and up again: nothing is started, registered or made twice
    assert "started   server" in platform.marlin("up")
    before = platform.automations()
    again = platform.marlin("up")
    assert "started" not in again
    assert platform.automations() == before

    # a file in the folder: ingested, pretrained, adapted, promoted
    shutil.copy(sample_videos / "single_face.mp4", folder / "videos" / "one.mp4")
    platform.wait("the first promotion", registry.live)
    assert (list_versions(dataset), [e.dataset_version for e in registry.encoders()]) == ([1], [1])
    platform.wait("the end of the run", lambda: _states(platform, "improve") == ["COMPLETED"])

    # an object in the bucket; the worker dies in the middle of pretraining, with everything on its machine
    boto3.client("s3").upload_file(str(sample_videos / "face_noface.mov"), bucket, "in/two.mov")
    first = set((folder / "runs").glob("pretrain-*"))
    second = platform.wait("continued pretraining", lambda: set((folder / "runs").glob("pretrain-*")) - first).pop()
    platform.wait("its first checkpoint", lambda: any(row["step"] > 6 for row in read_metrics(second)))
    keeper = Keeper(folder / "platform")
    worker = keeper.running("worker-marlin")
    assert worker is not None
    machine = [worker, *worker.children(recursive=True)]
    for process in machine:
        process.kill()
    psutil.wait_procs(machine, timeout=30)
    assert registry.attempt() is not None
    assert "started   worker-marlin" in platform.marlin("up")
    platform.wait("the promotion of the second encoder", lambda: len(registry.decisions()) == 2)
    platform.wait("the end of the run", lambda: _states(platform, "improve").count("COMPLETED") == 2)
    assert sorted(_states(platform, "improve")) == ["COMPLETED", "COMPLETED", "CRASHED"]
    live = registry.live()
    assert live is not None
    assert (live.number, live.parent, live.dataset_version) == (2, 1, 2)
    assert registry.attempt() is None

    # it went on in the same folder, from the encoder that was live, and each thing was made once
    assert len(list((folder / "runs").glob("pretrain-*"))) == 2
    assert len(list((folder / "runs").glob("adapt-*"))) == 3  # each candidate, and the first one on the second version
    assert json.loads((second / "run.json").read_text())["config"]["data"]["version"] == 2
    graph = read_lineage(str(folder / "set"), [folder / "runs"], str(folder / "registry"), "registry:2")
    above = "\n".join(graph.lines(graph.find("registry:2")))
    assert "↑ encoder registry:1" in above
    assert above.count("↑ video") == 2

    # somebody was told why, in a sentence
    told = platform.wait("a notification", lambda: webhook.bodies)
    assert any("heartbeats stopped" in json.loads(body)["text"] for body in told), told

    # the same bytes again: ingestion is woken and finds nothing, and nothing follows
    runs = len(platform.runs("ingest"))
    shutil.copy(folder / "videos" / "one.mp4", folder / "videos" / "again.mp4")
    platform.wait("one more look", lambda: _states(platform, "ingest").count("COMPLETED") == runs + 1)
    time.sleep(5)
    newest = latest_version(dataset)
    assert newest is not None
    assert (newest.version, len(registry.encoders()), len(registry.decisions())) == (2, 2, 2)
    assert len(platform.runs("improve")) == 3

    # artifacts are there; secrets are nowhere
    keys = {found["key"] for found in platform.api("artifacts/filter", limit=200)}
    assert {"funnel", "dataset-report", "pretraining", "losses", "adaptation", "decision"} <= keys
    kinds = ("artifacts", "logs", "flow_runs", "deployments")
    assert CANARY not in json.dumps([platform.api(f"{kind}/filter", limit=200) for kind in kinds])
    leaks = [path for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert leaks == []

    # down, and nothing stays
    platform.marlin("down")
    assert [process for process in psutil.process_iter(["cmdline"]) if _speaks_of(process, str(folder))] == []


def _states(platform: Platform, flow: str) -> list[str]:
    return [run["state_type"] for run in platform.runs(flow)]


def _speaks_of(process: psutil.Process, text: str) -> bool:
    return any(text in word for word in process.info["cmdline"] or ())
