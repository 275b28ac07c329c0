"""Ingests as processes that can be killed, and the dataset that an undisturbed one makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config import IngestConfig
from pipeline.ingest import ingest
from tests.support.ingest_process import Driver, shards


@pytest.fixture
def start() -> Iterator[Callable[..., Driver]]:
    """``start(videos, out, NAME=value)`` starts an ingest; what still runs at the end is killed."""
    started: list[Driver] = []

    def begin(videos: Path | str, out: Path | str, fetch: dict | None = None, **env: str) -> Driver:
        started.append(Driver(videos, out, fetch, **env))
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
