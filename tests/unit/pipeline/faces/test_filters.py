import numpy as np
import pytest

from pipeline.config import TrackConfig
from pipeline.faces.filters import face_side, filter_reason, judge_tracks
from pipeline.faces.scan import Scan
from pipeline.faces.track import Sighting
from pipeline.rows import Detections, FaceTrack, FilterReason

NONE = Detections(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
SEEN = [(0, NONE), (19, NONE)]


def reason(frames=20, side=100.0, score=0.9, blur=50.0, exposure=120.0):
    boxes = np.tile(np.array([[0, 0, side, side]], np.float32), (frames, 1))
    track = FaceTrack(0, 0, boxes, boxes, np.zeros((frames, 5, 2), np.float32), np.full(frames, score, np.float32))
    return filter_reason(track, [Sighting(0, 0), Sighting(1, 0)], SEEN, [[(blur, exposure)]] * 2, TrackConfig())


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, None),
        ({"frames": 7}, FilterReason.TOO_SHORT),
        ({"frames": 8}, None),
        ({"side": 31.0}, FilterReason.TOO_SMALL),
        ({"score": 0.4}, FilterReason.LOW_SCORE),
        ({"blur": 4.0}, FilterReason.BLURRED),
        ({"exposure": 10.0}, FilterReason.EXPOSURE),
        ({"exposure": 250.0}, FilterReason.EXPOSURE),
        ({"frames": 1, "blur": 0.0}, FilterReason.TOO_SHORT),
    ],
)
def test_each_bound_has_its_reason_and_the_first_counts(wrong, expected):
    assert reason(**wrong) == expected


def test_the_face_side_is_the_mean_of_width_and_height():
    assert face_side(np.array([[0, 0, 10, 20], [0, 0, 30, 40]], np.float32)) == 25


def test_a_fade_from_black_counts_for_as_long_as_it_lasts():
    """Bug caught: key frames lie closer where pictures change, so nine dark frames outvoted eleven good ones."""
    boxes = np.tile(np.array([[0, 0, 100, 100]], np.float32), (20, 1))
    track = FaceTrack(0, 0, boxes, boxes, np.zeros((20, 5, 2), np.float32), np.full(20, 0.9, np.float32))
    key_frames = [(frame, NONE) for frame in (*range(9), 19)]
    chain = [Sighting(position, 0) for position in range(10)]

    def judged(last: float) -> FilterReason | None:
        return filter_reason(track, chain, key_frames, [[(50.0, 5.0)]] * 9 + [[(50.0, last)]], TrackConfig())

    assert judged(100.0) is None  # the mean of the key frames is 14.5, that of the frames 33.5
    assert judged(5.0) is FilterReason.EXPOSURE


def test_tracks_that_are_kept_are_numbered_without_gaps_and_the_others_are_counted():
    """Catches a number that a track left out has used up, and frames counted twice where two faces are in sight."""
    boxes_N4 = np.array([[0, 0, 10, 10], [200, 0, 300, 100]], np.float32)
    seen = Detections(boxes_N4, np.full(2, 0.9, np.float32), np.zeros((2, 5, 2), np.float32))
    key_frames = [(number, seen) for number in range(20)]
    scan = Scan(frames=30, key_frames=key_frames, quality=[[(50.0, 120.0)] * 2] * 20)
    judged = judge_tracks(scan, TrackConfig(), 25.0)
    assert [track.track for track in judged.kept] == [0]
    assert judged.kept[0].boxes_F4[0].tolist() == [200, 0, 300, 100]
    assert (judged.filtered, judged.shown) == ({"too_small": 1}, 20)
