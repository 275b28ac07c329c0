import numpy as np
import pytest

from pipeline.config import TrackConfig
from pipeline.faces.scan import scan_faces
from pipeline.media.clock import StageClock

CFG = TrackConfig(shot_threshold=0.12)


def scan(frames, detector, chunk, hold_bytes=1 << 30):
    chunks = [(start, frames[start : start + chunk]) for start in range(0, len(frames), chunk)]
    return scan_faces(chunks, detector, CFG, hold_bytes=hold_bytes, clock=StageClock())


@pytest.fixture
def two_shots(marked_frames):
    frames = marked_frames(22)
    frames[10:] = 255 - frames[10:]
    frames[10:, 40:80, 100:140] = (250, 40, 200)
    return frames


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 22])
def test_key_frames_are_every_fourth_and_both_sides_of_a_cut_and_the_last(two_shots, mark_detector, chunk):
    """Without the frames beside a cut a track would end up to three frames early; the chunks must not matter."""
    seen = scan(two_shots, mark_detector, chunk)
    assert seen.cuts == [10]
    assert [number for number, _ in seen.key_frames] == [0, 4, 8, 9, 10, 12, 16, 20, 21]
    assert seen.frames == 22
    boxes = [float(found.boxes_N4[0, 0]) for _, found in seen.key_frames]
    assert boxes == [20, 24, 28, 29, 100, 100, 100, 100, 100]


def test_quality_goes_with_its_detection(two_shots, mark_detector):
    seen = scan(two_shots, mark_detector, 8)
    assert [len(row) for row in seen.quality] == [len(found.scores_N) for _, found in seen.key_frames]
    assert all(0 < exposure < 255 for row in seen.quality for _, exposure in row)
    assert seen.faces == 9


def test_frames_are_held_only_within_the_budget(two_shots, mark_detector):
    held = scan(two_shots, mark_detector, 8).held
    assert np.array_equal(np.concatenate([frames for _, frames in held]), two_shots)
    assert scan(two_shots, mark_detector, 8, hold_bytes=two_shots.nbytes - 1).held is None


def test_a_video_of_one_frame_has_one_key_frame(marked_frames, mark_detector):
    assert [number for number, _ in scan(marked_frames(1), mark_detector, 8).key_frames] == [0]
