import numpy as np
import pytest
from PIL import Image

from pipeline.config import EmbeddedFaces, IngestConfig, TrackConfig
from pipeline.extract_clips import ClipExtractor
from pipeline.faces import labelled
from pipeline.faces.labelled import LabelledBoxes, labelled_boxes, read_labelled_boxes
from pipeline.media.decode import decode_clip
from pipeline.media.frames import open_frames
from pipeline.places import frames_place
from pipeline.rejects import RejectError
from pipeline.rows import Detections, RejectReason, SourceVideo

LINE = b"P\xe9n\\3\\3.618.jpg,0,262,165,132,130,0.0,1"


def write(tmp_path, *lines):
    (tmp_path / "P.labeled_faces.txt").write_bytes(b"\r\n".join(lines) + b"\r\n")
    return str(tmp_path / "P" / "3")


def faces(*boxes):
    """Detections whose five points all lie in the middle of their box."""
    boxes_N4 = np.array(boxes, np.float32).reshape(-1, 4)
    middles_N2 = (boxes_N4[:, :2] + boxes_N4[:, 2:]) / 2
    return Detections(boxes_N4, np.full(len(boxes), 0.7, np.float32), np.repeat(middles_N2[:, None], 5, axis=1))


def test_a_line_is_centre_and_size(tmp_path):
    """Bug caught: centre taken for a corner; Latin-1 names that stop the reading; another video's boxes."""
    lines = (LINE, "Pén\\3\\3.619.jpg,0,1,2,4,6,0.0,1".encode(), b"P\\31\\31.618.jpg,0,9,9,9,9,0.0,1", b"")
    boxes = read_labelled_boxes(write(tmp_path, *lines))
    assert boxes == {"3.618.jpg": (196, 100, 328, 230), "3.619.jpg": (-1, -1, 3, 5)}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"3.9.jpg,0,1,1,9,9,0.0,1",
        b"P\\3\\3.9.jpg,0,1,1,9,9",
        b"P\\3\\3.9.jpg,0,1,1,9,9,0.0,1,1",
        b"P\\3\\3.9.jpg,0,nan,1,9,9,0.0,1",
        b"P\\3\\3.9.jpg,0,1e300,1,9,9,0.0,1",
        b"P\\3\\3.9.jpg,0,1,1,-9,9,0.0,1",
        b"P\\3\\3.9.jpg,0,1,1,0x9,9,0.0,1",
        b"P\\3\\3.618.jpg,0,1,1,9,9,0.0,1",
        b"P\\3\\3.9.jpg," * 1000,
        b"\x00\xff\x81,,,,,,,",
    ],
)
def test_hostile_lines_are_skipped_and_counted(tmp_path, caplog, line):
    """Bug caught: a box of endless size; a box moved by a second line; a traceback for one bad line of many."""
    assert read_labelled_boxes(write(tmp_path, LINE, line)) == {"3.618.jpg": (196, 100, 328, 230)}
    assert ("1 lines are no labelled boxes" in caplog.text) is bool(line)


@pytest.mark.parametrize("how", ["absent", "a link", "too large", "others only"])
def test_boxes_that_are_asked_for_and_not_there_reject_the_video(tmp_path, monkeypatch, how):
    """Bug caught: a silent return to detection, so that two kinds of boxes are mixed; a link out of the source."""
    folder, reason = write(tmp_path, b"P\\4\\4.1.jpg,0,9,9,9,9,0.0,1"), RejectReason.UNREADABLE
    path = tmp_path / "P.labeled_faces.txt"
    if how == "absent":
        path.unlink()
    elif how == "a link":
        path.rename(tmp_path / "x")
        path.symlink_to("x")
    elif how == "too large":
        monkeypatch.setattr(labelled, "MAX_LABEL_BYTES", 8)
    else:
        reason = RejectReason.NO_FACE
    with pytest.raises(RejectError, match=r"P\.labeled_faces\.txt") as caught:
        read_labelled_boxes(folder)
    assert caught.value.reason is reason


class _Named:
    names = ("3.618.jpg", "3.619.jpg")


def test_the_label_says_which_face_and_where_and_the_detector_the_points():
    """Bug caught: a bystander's points; the detected box kept; a face invented for a frame without a label."""
    choose = LabelledBoxes(_Named(), {"3.618.jpg": (100, 100, 200, 200)})
    got = choose(0, faces((0, 0, 90, 90), (120, 90, 190, 210), (140, 140, 150, 150)))
    assert got.boxes_N4.tolist() == [[100, 100, 200, 200]]
    assert got.scores_N.tolist() == [1.0]
    assert got.landmarks_N52.tolist() == [[[155, 150]] * 5]
    assert len(choose(1, faces((0, 0, 90, 90))).scores_N) == 0


def test_a_labelled_face_that_is_not_detected_gets_the_mean_points():
    """Bug caught: a profile lost that a person has labelled; eyes under the mouth, or sides exchanged."""
    choose = LabelledBoxes(_Named(), {"3.618.jpg": (100, 200, 200, 300)})
    (points,) = choose(0, faces((0, 0, 90, 90))).landmarks_N52
    right_eye, left_eye, nose, right_mouth, left_mouth = points - (100, 200)
    assert right_eye[0] < nose[0] < left_eye[0] < 100
    assert 0 < right_eye[1] < nose[1] < right_mouth[1] < 100
    assert right_mouth[0] < left_mouth[0]


def test_labelled_boxes_are_what_is_cropped(tmp_path, mark_detector, marked_frames):
    """Bug caught: boxes of the wrong frame, off by the first frame's number or by a frame that does not decode."""
    folder = tmp_path / "P" / "3"
    folder.mkdir(parents=True)
    lines = []
    for number, frame in enumerate(marked_frames(40), start=7):
        Image.fromarray(frame).save(folder / f"3.{number}.jpg", quality=95)
        lines.append(f"P\\3\\3.{number}.jpg,0,{40 + number},50,40,40,0.0,1".encode())
    (folder / "3.9.jpg").write_bytes(b"damaged")
    write(tmp_path, *lines)
    place = frames_place(str(folder))
    cfg = IngestConfig(
        faces=EmbeddedFaces(labelled_boxes=True),
        track=TrackConfig(min_blur=0, smooth_s=0, margin=1, key_frame_stride=1),
    )
    extractor = ClipExtractor(cfg, "ab" * 32, mark_detector)
    (clip,) = extractor(SourceVideo("cd" * 32, place, "3", 1, place=place), place, "train")
    # Boxes move a pixel a frame, and frame 2 is 3.10.jpg since 3.9.jpg is damaged.
    assert [crop[0] for crop in clip.meta.crops[:4]] == pytest.approx([27, 28, 30, 31], abs=0.4)
    assert (clip.meta.fps, clip.meta.frames, clip.meta.quality.score) == (24.0, 39, 1.0)
    assert decode_clip(clip.mp4).shape == (39, 224, 224, 3)


def test_videos_without_a_folder_are_detected(tmp_path):
    """Bug caught: a mixed source of which every file becomes a reject."""
    assert labelled_boxes("/a.mp4", open_frames("/a.mp4")) is None
