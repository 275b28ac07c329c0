from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import TrackConfig
from pipeline.faces.boxes import NO_FACES, iou_matrix
from pipeline.faces.track import KeyFrames, build_track, link_detections, smooth_path
from pipeline.rows import Detections, FaceTrack

CFG = TrackConfig()
FPS = 25.0


def faces(*boxes: Sequence[float], score: float = 0.9) -> Detections:
    boxes_N4 = np.array(boxes, np.float32).reshape(-1, 4)
    corner, size = boxes_N4[:, None, :2], (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Detections(boxes_N4, np.full(len(boxes), score, np.float32), corner + points * size)


def square(x: float, y: float = 0, side: float = 100) -> tuple[float, float, float, float]:
    return (x, y, x + side, y + side)


def link_tracks(key_frames: KeyFrames, cuts: Sequence[int], cfg: TrackConfig, fps: float) -> list[FaceTrack]:
    """Every track of the chains, unfiltered."""
    chains = link_detections(key_frames, cuts, cfg)
    return [build_track(number, chain, key_frames, cfg, fps) for number, chain in enumerate(chains)]


def spans(tracks):
    return [(track.start, track.end) for track in tracks]


def test_even_motion_is_interpolated_exactly():
    (track,) = link_tracks([(n, faces(square(3.0 * n, 2.0 * n))) for n in range(0, 41, 4)], [], CFG, FPS)
    frames = np.arange(41)
    np.testing.assert_allclose(track.boxes_F4[:, 0], 3.0 * frames, atol=1e-3)
    np.testing.assert_allclose(track.boxes_F4[:, 3], 2.0 * frames + 100, atol=1e-3)
    np.testing.assert_allclose(track.landmarks_F52[:, 2], np.stack([3 * frames + 50, 2 * frames + 60], 1), atol=1e-3)


def test_even_motion_is_smoothed_to_itself_up_to_both_ends():
    """An ordinary filter lags at the ends, and the crop of a face that walks in would cut it."""
    (track,) = link_tracks([(n, faces(square(3.0 * n))) for n in range(0, 81, 4)], [], CFG, FPS)
    middle = (track.crops_F4[:, 0] + track.crops_F4[:, 2]) / 2
    np.testing.assert_allclose(middle, 3.0 * np.arange(81) + 50, atol=1e-2)
    np.testing.assert_allclose(track.crops_F4[:, 2] - track.crops_F4[:, 0], 130, atol=1e-2)


def test_crops_are_squares_of_the_longer_side():
    (track,) = link_tracks([(n, faces((0, 0, 60, 100))) for n in range(0, 17, 4)], [], CFG, FPS)
    sides = track.crops_F4[:, 2:] - track.crops_F4[:, :2]
    np.testing.assert_allclose(sides, 130, atol=1e-3)


def test_trembling_is_taken_out():
    rng = np.random.default_rng(0)
    key_frames = [(n, faces(square(100 + rng.normal(0, 4)))) for n in range(0, 201, 4)]
    (track,) = link_tracks(key_frames, [], CFG, FPS)
    steps = np.abs(np.diff(track.crops_F4[:, 0]))
    assert steps.mean() < np.abs(np.diff(track.boxes_F4[:, 0])).mean() / 5


def test_a_face_that_leaves_ends_its_track_at_its_last_key_frame():
    key_frames = [(n, faces(square(0)) if n <= 40 else NO_FACES) for n in range(0, 101, 4)]
    assert spans(link_tracks(key_frames, [], CFG, FPS)) == [(0, 41)]


def test_a_short_absence_does_not_break_a_track_and_a_long_one_does():
    def seen_except(missing):
        return [(n, NO_FACES if n in missing else faces(square(0))) for n in range(0, 61, 4)]

    assert spans(link_tracks(seen_except({20, 24}), [], CFG, FPS)) == [(0, 61)]
    assert spans(link_tracks(seen_except({20, 24, 28}), [], CFG, FPS)) == [(0, 61)]
    assert spans(link_tracks(seen_except({20, 24, 28, 32}), [], CFG, FPS)) == [(0, 17), (36, 61)]


def test_wide_key_frames_are_linked_even_when_no_gap_is_allowed():
    cfg = TrackConfig(max_gap_frames=0, key_frame_stride=16)
    assert spans(link_tracks([(n, faces(square(0))) for n in range(0, 65, 16)], [], cfg, FPS)) == [(0, 65)]


def test_a_cut_ends_a_track_even_where_the_next_face_stands_at_the_same_place():
    key_frames = [(n, faces(square(0))) for n in (0, 4, 8, 9, 10, 12, 16)]
    assert spans(link_tracks(key_frames, [10], CFG, FPS)) == [(0, 10), (10, 17)]


def test_two_faces_keep_their_tracks_when_the_detector_changes_their_order():
    left, right = square(0), square(300)
    key_frames = [(n, faces(left, right) if n % 8 else faces(right, left)) for n in range(0, 33, 4)]
    tracks = link_tracks(key_frames, [], CFG, FPS)
    assert [float(track.boxes_F4[:, 0].mean()) for track in tracks] == [0, 300]  # and numbered from the left
    assert all(np.ptp(track.boxes_F4[:, 0]) == 0 for track in tracks)


def test_neither_the_greedy_link_nor_the_best_for_all_is_made_where_they_differ():
    """Bug caught: a middle box given to whom it overlaps most, or to the other since then all overlap more."""
    before, after = faces(square(0), square(40)), faces(square(30), square(75))
    assert spans(link_tracks([(0, before), (4, after)], [], CFG, FPS)) == [(0, 1), (0, 1), (4, 5), (4, 5)]


def test_a_detection_far_away_is_another_face():
    assert len(link_tracks([(0, faces(square(0))), (4, faces(square(90)))], [], CFG, FPS)) == 2


@pytest.mark.parametrize("speed", [2, 2.5, 3, 4, 5])
@pytest.mark.parametrize("sides", [(60, 60), (75, 60), (60, 90)])
def test_faces_that_cross_never_share_a_track(speed, sides):
    """Bug caught: the hidden one of two crossing faces taken over by the other, and a track of two persons."""
    for phase in range(8):
        at = {n: crossing(speed * (n - 64 - phase), sides) for n in range(0, 129, 8)}
        hidden = {n for n, (one, other) in at.items() if iou_matrix(*np.array([[one], [other]]))[0, 0] >= 0.4}
        key_frames = [(n, faces(one) if n in hidden else faces(one, other)) for n, (one, other) in at.items()]
        tracks = link_tracks(key_frames, [], CFG, FPS)
        for track in tracks:
            seen = [n for n in at if track.start <= n < track.end and n not in hidden]
            nearer = {int(np.argmin([abs(track.boxes_F4[n - track.start] - box).max() for box in at[n]])) for n in seen}
            assert len(nearer) <= 1
        assert sum(track.end - track.start for track in tracks) > 160  # most of 2 × 129 frames


def crossing(x: float, sides: tuple[int, int]):
    """Boxes of two faces at one height whose middles are x left and right of 200."""
    return [square(200 + way * x - side / 2, 100 - side / 2, side) for way, side in zip((-1, 1), sides, strict=True)]


def test_a_face_that_passes_another_keeps_its_track_while_both_are_seen():
    """Bug caught: linking on the last place alone, where at the crossing the other one stands."""
    key_frames = [(n, faces(square(200), square(3.75 * n, 90))) for n in range(0, 121, 8)]
    tracks = link_tracks(key_frames, [], CFG, FPS)
    assert [(track.start, track.end, round(float(track.boxes_F4[-1, 0]))) for track in tracks] == [
        (0, 121, 450),
        (0, 121, 200),
    ]


def test_a_face_that_is_fast_is_followed_as_soon_as_it_is_known_to_move():
    """Bug caught: a new track at each key frame, though it moves on as before."""
    places = [0, 50, 110, 180, 250, 320]
    key_frames = [(8 * n, faces(square(x))) for n, x in enumerate(places)]
    assert spans(link_tracks(key_frames, [], CFG, FPS)) == [(0, 41)]


def test_a_face_that_turns_back_stays_one_track():
    """Bug caught: a face that is only looked for where it was moving to."""
    key_frames = [(8 * n, faces(square(x))) for n, x in enumerate([0, 45, 0, 45, 0])]
    assert spans(link_tracks(key_frames, [], CFG, FPS)) == [(0, 33)]


def test_faces_cheek_to_cheek_stay_two_tracks():
    """Bug caught: doubt wherever two boxes overlap, so that a couple never gets a track."""
    rng = np.random.default_rng(0)
    couple = [(n, faces(*(square(x + dx, dx) for x, dx in zip((0, 50), rng.normal(0, 3, 2), strict=True))))
              for n in range(0, 161, 8)]  # fmt: skip
    assert spans(link_tracks(couple, [], CFG, FPS)) == [(0, 161)] * 2


def test_where_another_face_is_as_likely_a_track_ends():
    """Bug caught: a guess where one of two faces that meet is not seen, and either may be the one that is."""
    meeting = [(n, faces(square(4.0 * n), square(320 - 4.0 * n))) for n in range(0, 33, 8)]
    tracks = link_tracks([*meeting, (40, faces(square(160))), (48, faces(square(160)))], [], CFG, FPS)
    assert spans(tracks) == [(0, 33), (0, 33), (40, 49)]


def test_no_faces_make_no_tracks():
    assert link_tracks([(0, NO_FACES), (4, NO_FACES)], [], CFG, FPS) == []
    assert link_tracks([], [], CFG, FPS) == []


wandering = st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(60, 140)), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(wandering, st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_moving_all_boxes_moves_all_tracks(path, dx, dy):
    def tracks(shift_x, shift_y):
        boxes = [(4 * n, faces(square(500 + x + shift_x, 500 + y + shift_y, s))) for n, (x, y, s) in enumerate(path)]
        return link_tracks(boxes, [], TrackConfig(link_iou=0.01), FPS)

    for still, moved in zip(tracks(0, 0), tracks(dx, dy), strict=True):
        assert still.start == moved.start
        np.testing.assert_allclose(moved.crops_F4, still.crops_F4 + np.float32([dx, dy, dx, dy]), atol=0.02)


@settings(deadline=None, max_examples=50)
@given(wandering, st.lists(st.integers(0, 80), max_size=4))
def test_tracks_cover_key_frames_only_and_never_cross_a_cut(path, cuts):
    cuts = sorted(set(cuts))
    boxes = [(4 * n, faces(square(500 + x, 500 + y, s))) for n, (x, y, s) in enumerate(path)]
    tracks = link_tracks(boxes, cuts, CFG, FPS)
    for frame, found in boxes:  # no detection is lost
        here = [track.boxes_F4[frame - track.start] for track in tracks if track.start <= frame < track.end]
        assert any(np.allclose(box, found.boxes_N4[0], atol=1e-3) for box in here)
    for track in tracks:
        assert {track.start, track.end - 1} <= {frame for frame, _ in boxes}
        assert not any(track.start < cut < track.end for cut in cuts)
        lengths = {len(v) for v in (track.boxes_F4, track.crops_F4, track.landmarks_F52, track.scores_F)}
        assert lengths == {track.end - track.start}
        assert np.isfinite(track.crops_F4).all()


@settings(deadline=None, max_examples=50)
@given(wandering, st.floats(0, 40))
def test_squares_stay_squares_of_positive_size(path, sigma):
    boxes = np.array([square(x, y, s) for x, y, s in path], np.float32)
    squares = smooth_path(boxes, sigma_frames=sigma, margin=1.3)
    sides = squares[:, 2:] - squares[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=1e-2)
    assert (sides[:, 0] >= 0.6 * (boxes[:, 2] - boxes[:, 0])).all()


def test_a_face_that_shrinks_fast_at_the_end_keeps_a_square():
    """Bug caught: a line fitted to the fall that ends below nothing, and a square turned inside out."""
    sides = np.concatenate([np.full(60, 240), np.linspace(240, 20, 13)[1:], np.full(8, 20)])
    boxes = np.stack([-sides, -sides, sides, sides], 1).astype(np.float32) / 2
    squares = smooth_path(boxes, sigma_frames=15, margin=1.3)
    assert ((squares[:, 2] - squares[:, 0]) / sides).min() == pytest.approx(1.3 / 2)


def test_smoothing_is_the_gaussian_filter_away_from_the_ends():
    from scipy.ndimage import gaussian_filter1d

    x = np.random.default_rng(0).normal(0, 10, 200)
    boxes = np.stack([x, x, x + 100, x + 100], 1).astype(np.float32)
    ours = smooth_path(boxes, sigma_frames=5, margin=3)[:, 0] + 100  # with a margin that no box leaves
    np.testing.assert_allclose(ours[30:-30], gaussian_filter1d(x, 5, truncate=3)[30:-30], atol=0.05)


def test_smoothing_is_measured_in_seconds():
    """The same second of film must be as calm at 60 frames per second as at 24."""
    key_frames = [(n, faces(square(100 + 20 * (n % 8 == 0)))) for n in range(0, 101, 4)]
    for fps in (10.0, 50.0):
        (track,) = link_tracks(key_frames, [], TrackConfig(smooth_s=0.5), fps)
        expected = smooth_path(track.boxes_F4, sigma_frames=0.5 * fps, margin=1.3)
        np.testing.assert_array_equal(track.crops_F4, expected)


def test_no_smoothing_gives_the_boxes_own_squares():
    boxes = np.array([[0, 0, 50, 100], [7, 3, 107, 53]], np.float32)
    assert smooth_path(boxes, sigma_frames=0, margin=1).tolist() == [[-25, 0, 75, 100], [7, -22, 107, 78]]


def outside(boxes_F4, squares_F4, side=60.0):
    """Greatest share of a face that its square leaves out."""
    beyond = np.maximum(squares_F4[:, :2] - boxes_F4[:, :2], boxes_F4[:, 2:] - squares_F4[:, 2:])
    return float(beyond.max()) / side


@pytest.mark.parametrize(("widths", "period"), [(0.5, 30), (0.5, 45), (1, 45), (1, 60), (2, 60)])
def test_a_swinging_face_stays_in_its_square(widths, period):
    """Bug caught: smoothing that holds the square still while the face leaves it, by up to half its width."""
    x = 200 + 30 * widths * np.sin(2 * np.pi * np.arange(240) / period)
    boxes = np.stack([x, x * 0, x + 60, x * 0 + 60], 1).astype(np.float32)
    squares = smooth_path(boxes, sigma_frames=15, margin=1.3)
    assert outside(boxes, squares) < 0.05
    turns = [np.abs(np.diff(path[:, 0], 2)).max() for path in (squares, boxes)]
    assert turns[0] < 2.5 * turns[1]  # smoothly: a square that is merely clamped turns four times as hard and more


def test_a_trembling_face_s_square_is_the_smoothed_one():
    """Bug caught: a square that is moved after a face which is not about to leave it."""
    x = np.random.default_rng(0).normal(200, 2, 300)
    boxes = np.stack([x, x, x + 60, x + 60], 1).astype(np.float32)
    squares, wide = (smooth_path(boxes, sigma_frames=15, margin=margin) for margin in (1.3, 3))
    np.testing.assert_allclose(squares[:, :2] + squares[:, 2:], wide[:, :2] + wide[:, 2:], atol=1e-3)


def test_a_long_track_is_smoothed_in_linear_time():
    boxes = np.tile(np.array([[0, 0, 100, 100]], np.float32), (200_000, 1))
    assert smooth_path(boxes, sigma_frames=12, margin=1.3)[-1] == pytest.approx([-15, -15, 115, 115], abs=1e-3)
