"""Kill -9 at every stage of an ingest: run again, and the dataset is the one that an undisturbed run makes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config import IngestConfig
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import ingest
from pipeline.sources.web import UNCHANGING
from tests.support.web_server import Page, web_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

INGEST = """
import json, sys
from pipeline.config import IngestConfig
from pipeline.ingest import ingest
report = ingest(IngestConfig(sources=(sys.argv[1],), out=sys.argv[2], shard_mb=1, fetch=json.loads(sys.argv[3])))
print(report.version, report.new)
"""


def _start(videos: Path, out: Path, fetch: dict[str, Any] | None = None) -> subprocess.Popen[bytes]:
    arguments = [str(videos), str(out), json.dumps(fetch or {})]
    return subprocess.Popen([sys.executable, "-c", INGEST, *arguments], stderr=subprocess.DEVNULL)


def _wait(driver: subprocess.Popen[bytes], happened: Callable[[], bool], limit_s: float = 150) -> bool:
    """Wait until something happened; False when the driver ended first."""
    end = time.monotonic() + limit_s
    while driver.poll() is None:
        if happened():
            return True
        assert time.monotonic() < end, "the ingest neither got there nor ended"
        time.sleep(0.005)
    return False


def _any(out: Path, pattern: str) -> Callable[[], bool]:
    return lambda: next(out.glob(pattern), None) is not None


def _shards(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in ("shards", "manifests")
        for path in sorted((out / folder).iterdir())
    }


@pytest.fixture(scope="module")
def undisturbed(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "d"
    report = ingest(IngestConfig(sources=(str(sample_videos),), out=str(out), shard_mb=1))
    assert report.counts.shards > 1  # several units, or a kill between them tests nothing
    return _shards(out)


def test_kill_9_of_the_driver_at_any_moment_and_running_again_gives_the_same_dataset(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path
) -> None:
    """Bug caught: clips lost or doubled, other bytes, half a shard in sight, or a plan that never ends."""
    out = tmp_path / "d"
    moments = ["plan.json", "work/*/*.clips.tar", "work/*/*.regions.tar", "work/*/*.outcome.json", "shards/*.tar",
               "units/*.done", "versions/*.json"]  # fmt: skip
    killed = []
    for pattern in moments:
        if _any(out, pattern)():  # an earlier attempt got this far already
            continue
        driver = _start(sample_videos, out)
        if _wait(driver, _any(out, pattern)):
            driver.send_signal(signal.SIGKILL)
            killed.append(pattern)
        driver.wait()
        if not _any(out, "versions/*.json")():
            with pytest.raises(Exception, match="no dataset version"):
                open_dataset(str(out))
    assert len(killed) >= 4
    final = _start(sample_videos, out)
    assert final.wait(300) == 0
    assert _shards(out) == undisturbed
    assert verify_dataset(open_dataset(str(out))) == []
    assert {path.name for path in out.iterdir()} == {".lock", "shards", "manifests", "videos", "versions", "seen"}


def test_kill_9_while_videos_are_fetched_fetches_the_rest_and_gives_the_same_dataset(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path
) -> None:
    """Bug caught: a staging that begins anew after every kill, half a download taken for a video, staged bytes left."""
    out, cache = tmp_path / "d", tmp_path / "cache"
    with web_server() as server:
        files = sorted(path for path in sample_videos.iterdir() if path.suffix in (".mp4", ".mov"))
        names = [path.relative_to(sample_videos).as_posix() for path in files]
        for name, path in zip(names, files, strict=True):
            server.pages[f"/{name}"] = Page(path.read_bytes())
        slow = server.pages[f"/{names[-1]}"]
        slow.stall_s = 0.05
        manifest = tmp_path / "list.csv"
        manifest.write_text("url,name\n" + "".join(f"{server.url}/{name},{name}\n" for name in names))
        fetch = {"allow_private": True, "cache": str(cache), "parallel": 2, "requests_per_s": 1000.0}
        driver = _start(manifest, out, fetch)
        part = cache / hashlib.sha256(f"{server.url}/{names[-1]}\0{UNCHANGING}".encode()).hexdigest()
        assert _wait(
            driver, lambda: part.exists() and part.stat().st_size > 20_000 and len(list(out.glob("staged/*"))) > 2
        )
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        with pytest.raises(Exception, match="no dataset version"):
            open_dataset(str(out))
        slow.stall_s = 0.0
        assert _start(manifest, out, fetch).wait(300) == 0
        assert any("range" in headers for path, headers in server.asked if path == f"/{names[-1]}")
    assert _shards(out) == undisturbed
    assert verify_dataset(open_dataset(str(out))) == []
    assert {path.name for path in out.iterdir()} == {".lock", "shards", "manifests", "videos", "versions", "seen"}
    assert list(cache.iterdir()) == []


def test_kill_9_of_workers_while_they_work_changes_nothing(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path
) -> None:
    """Bug caught: a dead actor or child process that stops the job, or makes a good video a reject."""
    out = tmp_path / "d"
    driver = _start(sample_videos, out)
    assert _wait(driver, _any(out, "plan.json"))
    assert _wait(driver, lambda: _kill_one(driver.pid, "infra.sandbox"))  # a decoding child, by its command line
    assert _wait(driver, _any(out, "work/*/*.outcome.json"))
    assert _wait(driver, lambda: _kill_one(driver.pid, "TrackFaces"))  # a Ray actor, by its title
    assert driver.wait(300) == 0
    assert _shards(out) == undisturbed
    assert open_dataset(str(out)).version.version == 1


def _kill_one(driver: int, words: str) -> bool:
    """Kill one descendant of the driver whose command line has these words; False when there is none yet."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    time.sleep(1.0)  # let it get into its work
                    process.kill()
                    return True
    return False
