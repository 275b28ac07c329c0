"""Reparse on a real video with Ray: the same shards as an ingest with the new parser would make."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.ray_session import ray_session
from infra.run import RunContext
from pipeline import graph
from pipeline.config import EmbeddedFaces, IngestConfig
from pipeline.dataset.format import shard_key
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.show import summary
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import ingest
from pipeline.reparse import reparse

pytestmark = pytest.mark.timeout(600)

REPARSE = """
import sys
from pipeline.config import EmbeddedFaces, IngestConfig
from pipeline.reparse import reparse
reparse(IngestConfig(out=sys.argv[1], faces=EmbeddedFaces(forehead=1.0)))
"""


@pytest.fixture(scope="module", autouse=True)
def ray_on_two_cpus() -> Iterator[None]:
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def videos(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("single_face.mp4", "face_noface.mov"):
        shutil.copy(sample_videos / name, folder)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def fresh(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Shards of an ingest with the new parser, by the first video in them."""
    cfg = IngestConfig(sources=(str(videos),), out=str(tmp_path_factory.mktemp("fresh") / "d"),
                       faces=EmbeddedFaces(forehead=1.0), shard_mb=1)  # fmt: skip
    ingest(cfg)
    return _shards(open_dataset(cfg.out))


@pytest.fixture(scope="module")
def old(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestConfig:
    """A dataset made with the old parser, whose sources are gone."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(videos, folder / "videos")
    cfg = IngestConfig(sources=(str(folder / "videos"),), out=str(folder / "d"), shard_mb=1)
    ingest(cfg)
    shutil.rmtree(folder / "videos")
    return cfg


def _shards(reader: DatasetReader) -> dict[str, bytes]:
    return {
        reader.manifest(entry.unit)["video"][0].as_py(): reader.storage.read(shard_key(entry.unit))
        for entry in reader.shards
    }


def test_it_makes_the_shards_that_an_ingest_with_the_new_parser_makes(
    old: IngestConfig, fresh: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: other maps than a new ingest would give, sources read again, a setting that never arrives."""
    shutil.copytree(old.out, tmp_path / "d")
    cfg = old.model_copy(update={"out": str(tmp_path / "d"), "faces": EmbeddedFaces(forehead=1.0)})
    before = summary(open_dataset(cfg.out))
    with RunContext.create("reparse", cfg, folder=tmp_path / "run") as run:
        report = reparse(cfg, run)
    reader = open_dataset(cfg.out)
    assert (report.version, report.new, report.treated, report.rejects) == (2, True, 3, {"empty": 1})
    assert verify_dataset(reader) == []
    assert _shards(reader) == fresh
    assert _shards(reader) != _shards(open_dataset(cfg.out, 1))
    assert summary(reader) == before | {"version": 2}
    record = (tmp_path / "run" / "run.json").read_text()
    assert '"version 1"' in record
    assert '"version 2"' in record
    monkeypatch.setattr(graph, "treat_videos", lambda *_, **__: pytest.fail("clips were parsed again"))
    assert not reparse(cfg).new


@pytest.mark.slow
def test_kill_9_in_the_middle_and_running_again_gives_the_same_shards(
    old: IngestConfig, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    """Bug caught: clips lost or doubled, a reader who sees half of the new version, finished work done again."""
    out = tmp_path / "d"
    shutil.copytree(old.out, out)
    killed = 0
    for pattern in ("work/*/*.clips.tar", "work/*/*.outcome.json", "units/*.done"):
        driver = subprocess.Popen([sys.executable, "-c", REPARSE, str(out)], stderr=subprocess.DEVNULL)
        while driver.poll() is None and not any(out.glob(pattern)):
            time.sleep(0.01)
        if driver.poll() is None:
            driver.send_signal(signal.SIGKILL)
            killed += 1
        driver.wait()
        reader = open_dataset(str(out))
        assert verify_dataset(reader) == []
    assert killed
    reparse(IngestConfig(out=str(out), faces=EmbeddedFaces(forehead=1.0)))
    assert _shards(open_dataset(str(out))) == fresh
