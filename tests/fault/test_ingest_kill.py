"""Kill -9 at every stage of an ingest: run again, and the dataset is the one that an undisturbed run makes."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.sources.web import UNCHANGING
from tests.support.ingest_process import shards
from tests.support.web_server import Page, web_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _any(out: Path, pattern: str) -> Callable[[], bool]:
    return lambda: next(out.glob(pattern), None) is not None


def test_kill_9_of_the_driver_at_any_moment_and_running_again_gives_the_same_dataset(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, start: Callable
) -> None:
    """Bug caught: clips lost or doubled, other bytes, half a shard in sight, or a plan that never ends."""
    out = tmp_path / "d"
    moments = ["plan.json", "work/*/*.clips.tar", "work/*/*.regions.tar", "work/*/*.outcome.json", "shards/*.tar",
               "units/*.done", "versions/*.json"]  # fmt: skip
    killed = []
    for pattern in moments:
        if _any(out, pattern)():  # an earlier attempt got this far already
            continue
        driver = start(sample_videos, out)
        if driver.reaches(_any(out, pattern)):
            driver.process.send_signal(signal.SIGKILL)
            killed.append(pattern)
        driver.finish()
        if not _any(out, "versions/*.json")():
            with pytest.raises(Exception, match="no dataset version"):
                open_dataset(str(out))
    assert len(killed) >= 4
    assert start(sample_videos, out).finish()[0] == 0
    assert shards(out) == undisturbed
    assert verify_dataset(open_dataset(str(out))) == []
    assert {path.name for path in out.iterdir()} == {".lock", "shards", "manifests", "videos", "versions", "seen"}


def test_kill_9_while_videos_are_fetched_fetches_the_rest_and_gives_the_same_dataset(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, start: Callable
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
        driver = start(manifest, out, fetch)
        part = cache / hashlib.sha256(f"{server.url}/{names[-1]}\0{UNCHANGING}".encode()).hexdigest()
        assert driver.reaches(
            lambda: part.exists() and part.stat().st_size > 20_000 and len(list(out.glob("staged/*"))) > 2
        )
        driver.process.send_signal(signal.SIGKILL)
        driver.finish()
        with pytest.raises(Exception, match="no dataset version"):
            open_dataset(str(out))
        slow.stall_s = 0.0
        assert start(manifest, out, fetch).finish()[0] == 0
        assert any("range" in headers for path, headers in server.asked if path == f"/{names[-1]}")
    assert shards(out) == undisturbed
    assert verify_dataset(open_dataset(str(out))) == []
    assert {path.name for path in out.iterdir()} == {".lock", "shards", "manifests", "videos", "versions", "seen"}
    assert list(cache.iterdir()) == []


def test_kill_9_of_workers_while_they_work_changes_nothing(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, start: Callable
) -> None:
    """Bug caught: a dead actor or child process that stops the job, or makes a good video a reject."""
    out = tmp_path / "d"
    driver = start(sample_videos, out)
    assert driver.reaches(_any(out, "plan.json"))
    pid = driver.process.pid
    assert driver.reaches(lambda: _kill_one(pid, "infra.sandbox"))  # a decoding child, by its command line
    # Ray actors, by their titles; the first is at work for certain, since its child has just died under it
    assert driver.reaches(lambda: _kill_one(pid, "TrackFaces"))
    assert driver.reaches(_any(out, "work/*/*.outcome.json"))
    assert driver.reaches(lambda: _kill_one(pid, "ParseRegions"))
    code, said = driver.finish()
    assert code == 0, said
    assert said.count("Ray lost a worker") >= 1
    assert shards(out) == undisturbed
    assert open_dataset(str(out)).version.version == 1


def test_kill_9_of_a_worker_that_waits_for_its_next_video_changes_nothing(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, start: Callable
) -> None:
    """Bug caught: a job that waits for ever for its only writer, which died between two videos."""
    out = tmp_path / "d"
    driver = start(sample_videos, out)
    pid = driver.process.pid
    assert driver.reaches(_any(out, "work/*/*.outcome.json"))  # it has had a row and waits for the next
    assert driver.reaches(lambda: _kill_one(pid, "WriteShard"))
    code, said = driver.finish()
    assert code == 0, said
    assert shards(out) == undisturbed


def test_kill_9_of_the_raylet_ends_the_ingest_and_running_again_gives_the_same_dataset(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, start: Callable
) -> None:
    """Bug caught: a driver that waits for ever for a Ray that is gone; orphans that write into the next run."""
    out = tmp_path / "d"
    driver = start(sample_videos, out)
    assert driver.reaches(_any(out, "work/*/*.clips.tar"))
    family = psutil.Process(driver.process.pid).children(recursive=True)
    assert _kill_one(driver.process.pid, "raylet/raylet")
    assert driver.finish(120)[0] != 0
    _, orphans = psutil.wait_procs(family, timeout=60)
    assert not orphans
    assert start(sample_videos, out).finish()[0] == 0
    assert shards(out) == undisturbed


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
