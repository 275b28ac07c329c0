"""What is drawn into a frame: which scores, where, and of which face."""

import av
import numpy as np
import pytest

from infra.errors import MediaError
from model.adapt.annotate import ACCENT, PANEL, REAL_TO_FAKE, ScoredFace, annotate, blend
from model.adapt.annotated_video import Annotation, AnnotationWorker

SPANS = np.array([(0, 31), (32, 63), (42, 73)])


def _face(track: int | None = 0, start: int = 0, frames: int = 80, scores: object = ((0.1,), (0.5,), (0.9,))):
    boxes = None if track is None else np.full((frames, 4), (20, 60, 50, 90), np.float32)
    return ScoredFace(track, start, boxes, SPANS + start, np.array(scores))


def _drawn(face: ScoredFace, count: int, size=(100, 120), outputs=("fake",), kind="binary", warns=False):
    frames = ((i / 25, np.zeros((*size, 3), np.uint8)) for i in range(count))
    return [image for _, image in annotate(frames, [face], outputs, kind, warns=warns)]


@pytest.mark.parametrize(("frame", "score"), [(0, 0.1), (31, 0.3), (35, 0.5), (50, 0.7), (70, 0.9), (79, 0.9)])
def test_the_score_of_a_frame_is_that_of_the_windows_around_it(frame, score):
    """Catches frames between windows, or behind the last, that have no score or another's."""
    assert _face(start=10).scores(10 + frame) == pytest.approx([score])


def test_a_face_is_drawn_in_its_own_frames_alone():
    """Catches boxes that are a frame early, and ones that stay when the face has gone."""
    images = _drawn(_face(start=3, frames=4), 9)
    assert [bool(image.any()) for image in images] == [False] * 3 + [True] * 4 + [False] * 2
    assert tuple(images[3][75, 20]) == tuple(images[3][90, 35]) == ACCENT
    assert not images[3][75, 35].any(), "the face itself stays visible"


def test_a_bar_is_as_long_as_its_score_and_a_warning_has_its_colour():
    low, high = (_drawn(_face(scores=[[s]] * 3), 1, warns=True)[0] for s in (0.25, 1.0))
    lengths = [int((np.abs(image[:58].astype(int) - blend(s)).max(axis=-1) < 2).any(axis=0).sum()) for image, s in
               ((low, 0.25), (high, 1.0))]  # fmt: skip
    assert lengths[0] == pytest.approx(lengths[1] / 4, abs=2)
    assert [blend(s) for s in (0.0, 0.5, 1.0)] == list(REAL_TO_FAKE)
    assert tuple(high[75, 20]) == REAL_TO_FAKE[2]


def _at(*box: float) -> ScoredFace:
    return ScoredFace(0, 0, np.array([box], np.float32), SPANS, np.array([[0.0]] * 3))


@pytest.mark.parametrize(
    ("face", "corner"),
    [(_at(20, 60, 50, 90), (20, 34)), (_at(30, 10, 60, 40), (30, 10)), (_at(-20, -9, 20, 30), (0, 0)),
     (_at(110, 115, 130, 140), (66, 72)), (_face(None), (0, 0))],
    ids=["above", "inside its upper edge", "left and above of the frame", "right and below of it", "a whole frame"],
)  # fmt: skip
def test_the_panel_stays_in_the_frame(face, corner):
    """Catches text that is cut off where a face leaves the picture."""
    image = _drawn(face, 1, kind="regression")[0]  # no bars: the panel has one colour
    y, x = np.nonzero((image == PANEL).all(axis=-1))
    assert (x.min(), y.min()) == pytest.approx(corner, abs=4)
    assert x.max() - x.min() >= 50


def test_scores_outside_of_0_to_1_have_no_bar():
    def bars(kind: str) -> int:
        image = _drawn(_face(None, scores=[[-3.5], [7.0], [0.5]]), 1, kind=kind)[0]
        return int((image == ACCENT).all(axis=-1).sum())

    assert bars("regression") == 0


def test_of_many_outputs_the_highest_are_shown():
    """Catches forty labels over the face; letters of other scripts must not stop it."""
    outputs = ("ß", "улыбка", "c", "d", "e")
    few = _drawn(_face(scores=[[0.9, 0.8, 0.7, 0.0, 0.0]] * 3), 1, outputs=outputs)[0]
    same = _drawn(_face(scores=[[0.9, 0.8, 0.7, 0.1, 0.2]] * 3), 1, outputs=outputs)[0]
    other = _drawn(_face(scores=[[0.9, 0.8, 0.7, 0.1, 0.8]] * 3), 1, outputs=outputs)[0]
    assert np.array_equal(few, same)
    assert not np.array_equal(few, other)


def test_a_side_beyond_h264_is_a_sentence(tmp_path):
    """Catches an encoder's own error, which commands do not know."""
    with av.open(str(tmp_path / "wide.mkv"), mode="w") as container:
        stream = container.add_stream("ffv1", rate=25, width=17_000, height=64)
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 17_000, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    wanted = Annotation(
        str(tmp_path / "wide.mkv"), str(tmp_path / "out.mp4"), 1, 25.0, (_face(),), ("fake",), "binary", True
    )
    with pytest.raises(MediaError, match="cannot be written as H"):
        AnnotationWorker()(wanted)
