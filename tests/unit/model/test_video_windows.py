"""Hostile videos: what the child process suffers, the command does not."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from infra.errors import WeightsError
from model import video_windows
from model.extract import extract
from model.extract_config import ExtractConfig
from model.video_windows import Look, Next, VideoWindows, WindowSettings, WindowWorker
from pipeline.config import ClipConfig, EmbeddedFaces, LimitConfig, TrackConfig
from pipeline.media.encode import encode_clip
from tests.support.clip_dataset import numbered


@pytest.fixture
def run(weights, tmp_path, monkeypatch):
    """Extract features of videos of these names with the hostile decoder; return what became of each."""
    monkeypatch.setattr(VideoWindows, "worker", "tests.support.hostile_windows:Worker")

    def extracted(*names: str, frames: int = 40, **limits):
        for name in names:
            (tmp_path / name).write_bytes(encode_clip(numbered(frames, 0)[0], 25.0, ClipConfig()))
        cfg = ExtractConfig(
            videos=tuple(str(tmp_path / name) for name in names), weights=str(weights), out=str(tmp_path / "out"),
            crop="none", device="cpu", batch=1, limits=LimitConfig(chunk_frames=8, **limits),
        )  # fmt: skip
        return extract(cfg)

    return extracted


def test_a_video_that_crashes_or_hangs_costs_itself_and_the_next_is_done(run):
    """Catches a command that a decoder's crash takes along, or that waits for ever."""
    crashed, hung, good = run("crash.mp4", "hang.mp4", "good.mp4", attempts=1, deadline_base_s=5, deadline_per_s=0)
    assert (crashed.features, crashed.reject) == (None, "crashed")
    assert "SIGABRT" in crashed.detail
    assert (hung.features, hung.reject) == (None, "timeout")
    assert "deadline of 5 s" in hung.detail
    assert len(np.load(good.features)) == len(good.windows) == 2


@pytest.mark.slow
def test_a_video_that_swells_costs_itself_and_the_next_is_done(run):
    """Catches memory that only the kernel bounds, which kills the command."""
    swollen, good = run("swell.mp4", "good.mp4", attempts=1, memory_mb=512)
    assert (swollen.reject, good.reject) == ("out_of_memory", None)


def test_a_child_that_dies_between_two_windows_is_followed_by_one_that_goes_on_there(run):
    """Catches windows given twice or left out, and a video lost to somebody else's out-of-memory kill."""
    once, good = run("once.mp4", "good.mp4", frames=130, hold_mb=0)
    assert (once.reject, len(once.windows)) == (None, 5)
    np.testing.assert_array_equal(np.load(once.features), np.load(good.features))


def test_a_detector_that_cannot_be_had_is_no_video_s_fault(weights, tmp_path, monkeypatch):
    """Catches a hundred videos rejected for a missing weight file."""
    monkeypatch.setattr(VideoWindows, "worker", "tests.support.hostile_windows:NoDetector")
    (tmp_path / "a.mp4").write_bytes(b"")
    cfg = ExtractConfig(videos=(str(tmp_path / "a.mp4"),), weights=str(weights), out=str(tmp_path / "o"), device="cpu")
    with pytest.raises(WeightsError, match="put them there"):
        extract(cfg)
    assert not list((tmp_path / "o").iterdir())


def test_a_video_s_frames_are_let_go_before_the_next_one_is_looked_at(tmp_path):
    """Catches twice ``hold_mb``: the windows of the last video, not read beyond their last, that keep its frames."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(encode_clip(numbered(64, 0)[0], 25.0, ClipConfig()))
    one, other = str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")
    worker = WindowWorker(
        WindowSettings("none", 16, 224, True, EmbeddedFaces(), TrackConfig(), LimitConfig(chunk_frames=8))
    )
    tracemalloc.start()
    windows = len(worker(Look(one)).windows)
    alone = tracemalloc.get_traced_memory()[0]
    assert alone > 64 * 224 * 224 * 3
    worker(Next(one, 0, windows))
    tracemalloc.reset_peak()
    worker(Look(other))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * alone


def test_the_child_is_another_one_after_so_many_videos(monkeypatch):
    """Catches a decoder's leak that grows with every video of a folder of thousands."""
    child = MagicMock()
    child.call = lambda *_, **__: child.close.call_count  # which child it is: after a close comes another
    monkeypatch.setattr(video_windows, "Killable", lambda *_, **__: child)
    limits = LimitConfig(recycle_videos=2)
    windows = VideoWindows(WindowSettings("none", 16, 224, True, EmbeddedFaces(), TrackConfig(), limits))
    assert [windows.look(Path("a.mp4")) for _ in range(5)] == [0, 0, 1, 1, 2]


def test_a_child_loads_little_before_its_first_video():
    """Catches an import that every video command, and every worker of an ingest, waits seconds for."""
    code = (
        "import sys, model.video_windows; print(*{'torch', 'ray', 'scipy', 'pyarrow', 'prefect'} & sys.modules.keys())"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
