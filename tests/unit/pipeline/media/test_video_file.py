"""Videos for people: nothing of a source's size, rate or order is lost on the way."""

import numpy as np
import pytest

from pipeline.media.decode import VideoFrames, read_frames
from pipeline.media.probe import probe
from pipeline.media.video_file import LONGEST_PAUSE_S, write_video


def _copy(source, target, fps=None):
    return write_video(target, VideoFrames(str(source)).iter_timed(), fps or probe(str(source)).fps)


def _times(path):
    return [seconds for seconds, _ in VideoFrames(str(path)).iter_timed()]


def test_frames_order_rate_and_size_are_kept(make_video, numbers, tmp_path):
    """Catches frames that are dropped at the end of the stream, and a rate of the writer's own."""
    source = make_video("a.mp4", frames=40)
    assert _copy(source, tmp_path / "b") == 40
    info = probe(str(tmp_path / "b"))
    assert (info.width, info.height, info.frames) == (96, 64, 40)
    assert info.fps == pytest.approx(probe(str(source)).fps)
    assert numbers(read_frames(str(tmp_path / "b"), range(40))) == list(range(40))


def test_a_rate_that_varies_is_kept(make_video, tmp_path):
    """Catches a mean rate in place of each frame's time: what is drawn would drift from what was seen."""
    source = make_video("a.mp4", durations=(512, 1536, 256))
    _copy(source, tmp_path / "b")
    assert _times(tmp_path / "b") == pytest.approx(_times(source), abs=2e-5)
    assert np.ptp(np.diff(_times(source))) > 0.05


def test_odd_sides_lose_no_pixel(make_video, numbers, tmp_path):
    source = make_video("a.mkv", size=(97, 65), codec="ffv1", pix_fmt="bgr0")
    _copy(source, tmp_path / "b")
    info = probe(str(tmp_path / "b"))
    assert (info.width, info.height) == (98, 66)
    frame = read_frames(str(tmp_path / "b"), [0])[0]
    assert np.abs(frame[:, -1].astype(int) - frame[:, -2]).max() < 24
    assert numbers(read_frames(str(tmp_path / "b"), [5])) == [5]


def test_a_turned_video_is_written_upright(make_video, rotate, tmp_path):
    """Catches a video that players turn a second time."""
    source = rotate(make_video("a.mp4"))
    _copy(source, tmp_path / "b")
    info = probe(str(tmp_path / "b"))
    assert (info.width, info.height, info.rotation) == (64, 96, 0)
    assert np.abs(read_frames(str(tmp_path / "b"), [3]).astype(int) - read_frames(str(source), [3])).mean() < 4


def test_a_pause_of_hours_is_cut_and_the_rate_behind_it_kept(tmp_path):
    """Catches FFmpeg's "not yet implemented" for what a camera's clock, or a liar, put between two frames."""
    frame = np.zeros((32, 32, 3), np.uint8)
    times = [5.0, 5.5, 90_000.0, 90_000.5]
    write_video(tmp_path / "b", ((seconds, frame) for seconds in times), 2)
    assert _times(tmp_path / "b") == pytest.approx([0, 0.5, 0.5 + LONGEST_PAUSE_S, 1 + LONGEST_PAUSE_S], abs=1e-3)
