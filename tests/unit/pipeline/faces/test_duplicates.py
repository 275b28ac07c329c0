import cv2
import numpy as np
import pytest

from pipeline.faces.duplicates import SeenClips, clip_hash
from pipeline.media.decode import read_frames


@pytest.fixture(scope="module")
def talking(sample_videos):
    """128 frames of a real face, which hardly moves."""
    return read_frames(str(sample_videos / "single_face.mp4"), range(72)).repeat(2, axis=0)[:128]


def test_a_frozen_picture_and_a_loop_are_copies_and_the_same_face_later_is_none(talking):
    """Bug caught: a still picture filling a data set; a calm speaker taken for one."""
    seen = SeenClips(0.02)
    assert not seen.is_copy(talking[:64])
    assert not seen.is_copy(talking[64:])
    assert seen.is_copy(talking[:64])
    half = np.stack([cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for frame in talking[:64]])
    assert seen.is_copy(half)
    still = SeenClips(0.02)
    assert not still.is_copy(talking[:1].repeat(64, axis=0))
    assert still.is_copy(talking[:1].repeat(20, axis=0))


def test_zero_keeps_all(talking):
    """Bug caught: equal clips dropped although the config says to keep them."""
    seen = SeenClips(0.0)
    assert [seen.is_copy(talking[:64]) for _ in range(3)] == [False] * 3


def test_every_bit_counts(talking):
    """Bug caught: bits packed or compared such that half of them never differ."""
    assert np.bitwise_count(clip_hash(talking[:8]) ^ clip_hash(talking[:8, :, ::-1])).sum() > 400
