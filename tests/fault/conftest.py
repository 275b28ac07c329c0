"""Ingests as processes that can be killed, and the dataset that an undisturbed one makes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import IngestConfig
from pipeline.ingest import ingest

ROOT = Path(__file__).resolve().parents[2]
INGEST = """
import sys
from infra.errors import ProjectError
from pipeline.config import IngestConfig
from pipeline.ingest import ingest
try:
    report = ingest(IngestConfig(sources=(sys.argv[1],), out=sys.argv[2], shard_mb=1))
except ProjectError as error:
    sys.exit(str(error))
print(report.version, report.new)
"""


class Driver:
    """An ingest of small shards in a process of its own."""

    def __init__(self, videos: Path | str, out: Path | str, **env: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", INGEST, str(videos), str(out)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    def reaches(self, happened: Callable[[], bool], limit_s: float = 150) -> bool:
        """Wait until something happened; False when the ingest ended first."""
        end = time.monotonic() + limit_s
        while self.process.poll() is None:
            if happened():
                return True
            assert time.monotonic() < end, "the ingest neither got there nor ended"
            time.sleep(0.005)
        return False

    def finish(self, limit_s: float = 300) -> tuple[int, str]:
        """Return the exit code, and what it said on stderr."""
        _, said = self.process.communicate(timeout=limit_s)
        return self.process.returncode, said


def shards(out: Path) -> dict[str, bytes]:
    """The bytes that training reads."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("shards", "manifests")
        for path in sorted((out / folder).iterdir())
    }


@pytest.fixture
def start() -> object:
    """``start(videos, out, NAME=value)`` starts an ingest; what still runs at the end is killed."""
    started: list[Driver] = []

    def begin(videos: Path | str, out: Path | str, **env: str) -> Driver:
        started.append(Driver(videos, out, **env))
        return started[-1]

    yield begin
    for driver in started:
        driver.process.kill()
        driver.process.communicate()


@pytest.fixture(scope="session")
def undisturbed(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards and manifests of the sample videos."""
    out = tmp_path_factory.mktemp("undisturbed") / "d"
    report = ingest(IngestConfig(sources=(str(sample_videos),), out=str(out), shard_mb=1))
    assert report.counts.shards > 1  # several units, or a kill between them tests nothing
    return shards(out)
