import numpy as np
import pytest

from pipeline.config import TrackConfig
from pipeline.faces.scan import scan_faces
from pipeline.media.clock import StageClock

CFG = TrackConfig(shot_threshold=0.12, key_frame_stride=16, fine_stride=4, still_iou=0.85)


def scan(frames, detector, chunk, hold_bytes=1 << 30, **more):
    chunks = [(start, frames[start : start + chunk]) for start in range(0, len(frames), chunk)]
    return scan_faces(chunks, detector, CFG, hold_bytes=hold_bytes, clock=StageClock(), **more)


@pytest.fixture
def two_shots(marked_frames):
    frames = marked_frames(22)
    frames[10:] = 255 - frames[10:]
    frames[10:, 40:80, 100:140] = (250, 40, 200)
    return frames


@pytest.mark.parametrize("chunk", [1, 3, 10, 11, 22])
def test_key_frames_are_close_where_faces_move_and_beside_cuts_and_far_apart_where_they_rest(
    two_shots, mark_detector, chunk
):
    """Without the frames beside a cut a track would end too early; the chunks must not matter."""
    seen = scan(two_shots, mark_detector, chunk)
    assert seen.cuts == [10]
    assert [number for number, _ in seen.key_frames] == [0, 4, 8, 9, 10, 16, 21]
    assert seen.frames == 22
    boxes = [float(found.boxes_N4[0, 0]) for _, found in seen.key_frames]
    assert boxes == [20, 24, 28, 29, 100, 100, 100]


@pytest.mark.parametrize("chunk", [1, 3, 10, 22])
def test_a_shot_ends_where_frames_were_lost(two_shots, mark_detector, chunk):
    """Bug caught: a track that runs on over the ten seconds that damage took."""
    seen = scan(two_shots, mark_detector, chunk, follows_loss={0, 6, 10, 22}.__contains__)
    assert seen.cuts == [0, 6, 10]
    assert {0, 5, 6, 9, 10, 21} <= {number for number, _ in seen.key_frames}


def test_quality_goes_with_its_detection(two_shots, mark_detector):
    seen = scan(two_shots, mark_detector, 8)
    assert [len(row) for row in seen.quality] == [len(found.scores_N) for _, found in seen.key_frames]
    assert all(0 < exposure < 255 for row in seen.quality for _, exposure in row)
    assert seen.faces == 7


def test_frames_are_held_only_within_the_budget(two_shots, mark_detector):
    held = scan(two_shots, mark_detector, 8).held
    assert np.array_equal(np.concatenate([frames for _, frames in held]), two_shots)
    assert scan(two_shots, mark_detector, 8, hold_bytes=two_shots.nbytes - 1).held is None


def test_a_video_of_one_frame_has_one_key_frame(marked_frames, mark_detector):
    assert [number for number, _ in scan(marked_frames(1), mark_detector, 8).key_frames] == [0]


@pytest.mark.parametrize("first", [17, 61, 130])
def test_a_face_that_comes_and_goes_is_found_to_within_the_fine_stride(marked_frames, mark_detector, first):
    """Bug caught: a face that appears between two far key frames losing up to 15 frames, also across windows."""
    last = first + 20
    seen = scan(marked_frames(170, lambda n: first <= n <= last, speed=0), mark_detector, 7)
    with_face = [number for number, found in seen.key_frames if len(found.scores_N)]
    assert with_face[0] - first < CFG.fine_stride
    assert last - with_face[-1] < CFG.fine_stride
    assert [number for number, _ in seen.key_frames] == sorted({number for number, _ in seen.key_frames})


def test_frames_kept_for_detection_are_bounded(marked_frames, mark_detector, monkeypatch):
    """Bug caught: a window that grows with the video, which 8K frames turn into gigabytes."""
    frames = marked_frames(100, speed=1.1)
    wide = scan(frames, mark_detector, 8)
    monkeypatch.setattr("pipeline.faces.scan.WINDOW_BYTES", 1)
    batches = []
    detect = mark_detector.detect
    monkeypatch.setattr(mark_detector, "detect", lambda some: batches.append(len(some)) or detect(some))
    narrow = scan(frames, mark_detector, 8)
    assert max(batches) <= 2
    assert [number for number, _ in narrow.key_frames] == [number for number, _ in wide.key_frames]
