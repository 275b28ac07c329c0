import numpy as np
import pytest

from pipeline.faces.shots import ShotDetector, thumbnails
from pipeline.media.decode import read_frames

THRESHOLD = 0.12


@pytest.fixture
def two_scenes():
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 255, (2, 9, 16, 3)).astype(np.uint8).repeat(20, axis=1).repeat(20, axis=2)
    shaken = [np.roll(scenes[int(n >= 7)], n % 3, axis=1) for n in range(12)]
    return np.stack(shaken)


@pytest.mark.parametrize("chunk", [1, 5, 7, 12])
def test_the_cut_is_seen_once_wherever_chunks_begin(two_scenes, chunk):
    shots = ShotDetector(THRESHOLD)
    found = [cut for start in range(0, 12, chunk) for cut in shots.cuts(two_scenes[start : start + chunk], start)]
    assert found == [7]


def test_the_first_frame_is_no_cut(two_scenes):
    assert ShotDetector(THRESHOLD).cuts(two_scenes[:1], 0) == []


def test_real_motion_is_no_cut_and_a_change_of_scene_is(sample_videos):
    frames = read_frames(str(sample_videos / "face_noface.mov"), range(60, 80))
    assert ShotDetector(THRESHOLD).cuts(frames, 60) == [72, 73]  # in two steps; the face is last seen in 71
    acting = read_frames(str(sample_videos / "WolfgangLanger_Pexels.mp4"), range(110, 140))
    assert ShotDetector(THRESHOLD).cuts(acting, 380) == []


def test_tiny_frames_have_thumbnails_too():
    assert thumbnails(np.zeros((2, 2, 2, 3), np.uint8)).shape == (2, 18, 32)


def test_two_real_videos_joined_are_two_shots(shared_videos):
    """Bug caught: one track through a change of scene whose faces stand at the same place."""
    one = read_frames(str(shared_videos / "cropped01.mp4"), range(40))
    other = read_frames(str(shared_videos / "video03.mp4"), range(40))[:, 60:284, 80:304]
    assert ShotDetector(THRESHOLD).cuts(np.concatenate([one, other]), 0) == [40]
