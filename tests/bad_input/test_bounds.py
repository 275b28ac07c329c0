"""What one video may cost: its deadline when it hangs, and memory that does not depend on its length."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from infra.fetch import file_digest
from infra.sandbox import Sandbox
from infra.storage import open_storage
from pipeline.config import IngestConfig, LimitConfig, TrackConfig
from pipeline.dataset.format import work_key
from pipeline.dataset.work import CLIPS, read_outcome
from pipeline.requests import Extract
from pipeline.rows import RejectReason, SourceVideo
from pipeline.stages import PlannedVideo, TrackFaces
from tests.support.bad_corpus import FRAMES, Again, Kit

RECIPE = "ab" * 32


@pytest.fixture(scope="module")
def kit(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(sample_videos / "single_face.mp4", tmp_path_factory.mktemp("kit"))


def _planned(path: Path) -> PlannedVideo:
    return PlannedVideo("unit", 9, SourceVideo(file_digest(path), str(path), path.name, path.stat().st_size))


def test_a_video_that_hangs_costs_its_deadline_and_the_worker_goes_on(kit: Kit, tmp_path: Path) -> None:
    """Bug caught: native code that hangs for hours (here: an open that never returns, a process that is stopped)."""
    good, other, hanging = (tmp_path / name for name in ("good.mp4", "other.mp4", "hanging.mp4"))
    for path in (good, other, hanging):
        path.write_bytes(kit.different())
    planned = [_planned(path) for path in (good, other, hanging)]
    hanging.unlink()
    os.mkfifo(hanging)  # nobody writes: whoever opens it waits for ever
    storage = open_storage(str(tmp_path / "dataset"))
    stage = TrackFaces(IngestConfig(limits=LimitConfig(deadline_base_s=4, attempts=2)), RECIPE, storage)
    stage(planned[2])
    outcome = read_outcome(storage, "unit", planned[2].video.digest)
    assert outcome is not None
    assert outcome.reject == RejectReason.TIMEOUT
    stage(planned[0])
    assert storage.exists(work_key("unit", planned[0].video.digest, CLIPS))
    child = stage._child._child.pid
    assert child is not None
    os.kill(child, signal.SIGSTOP)
    stage(planned[1])  # the second attempt, in a new process, is a good one
    assert stage._child._child.pid != child
    assert storage.exists(work_key("unit", planned[1].video.digest, CLIPS))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_length_of_a_video(kit: Kit, tmp_path: Path) -> None:
    """Bug caught: frames or crops that pile up: 440 s more of these are 0.7 GB of frames, and as much of crops."""
    minutes, ten_minutes = (_peak_bytes(kit, tmp_path / f"{seconds}.mp4", seconds) for seconds in (160, 600))
    assert ten_minutes < minutes + (128 << 20), (minutes >> 20, ten_minutes >> 20)


def _peak_bytes(kit: Kit, path: Path, seconds: int) -> int:
    """Peak resident memory of a fresh worker that treats a video of so many seconds at 10 frames a second."""
    forth_and_back_FHWC = [*range(FRAMES), *range(FRAMES - 2, 0, -1)]  # no jump that looks like a shot boundary
    frames = Again(kit.frames_FHWC[forth_and_back_FHWC], seconds * 10)
    kit.encoded(path, frames=frames, size=(320, 180), rate=10, ticks=10, durations=(1,))
    cfg = IngestConfig(track=TrackConfig(key_frame_stride=16), limits=LimitConfig(hold_mb=0))
    video = _planned(path).video
    with Sandbox("pipeline.workers:ClipWorker", {"cfg": cfg, "recipe": RECIPE}, memory_limit_bytes=4 << 30) as child:
        outcome = child.call(Extract(video, str(path), path.with_suffix(".tar")), deadline_s=600)
        status = Path(f"/proc/{child.pid}/status").read_text()
    assert (outcome.reject, outcome.decoded) == (None, seconds * 10)
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) << 10
