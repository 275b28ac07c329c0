"""YouTube Faces' own boxes instead of detected ones: ``<Person>.labeled_faces.txt`` beside the person's folders."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re

import numpy as np

from pipeline.faces.boxes import NO_FACES, iou_matrix
from pipeline.media.frame_folder import FolderFrames
from pipeline.media.frames import Frames
from pipeline.places import frames_folder, printable
from pipeline.rejects import RejectError
from pipeline.rows import Detections, RejectReason

logger = logging.getLogger(__name__)

MAX_LABEL_BYTES = 16 << 20
"""The longest video has 6,070 frames and a line some 60 bytes; a person has at most a few videos."""
MAX_PIXELS = 100_000.0
"""Largest coordinate or side of a box that is believed, in pixels."""
MEAN_FACE_52 = np.array([(0.342, 0.462), (0.656, 0.460), (0.500, 0.641), (0.371, 0.825), (0.631, 0.823)], np.float32)
"""Where the five points lie in a square face box, as fractions: ArcFace's template (112 pixels), which is the mean of
aligned faces. In the order of Detections."""
_LINE = re.compile(r"(?P<name>[^,]+),[^,]*,(?P<box>(?:[^,]+,){4})[^,]*,[^,]*")
Box = tuple[float, float, float, float]


class LabelledBoxes:
    """Replaces what a detector found in a frame by the frame's labelled face.

    The label says which face and where; the detector is asked for the five points only, which labels do not have: those
    of the detection whose nose lies in the box and whose box overlaps it most, else the mean face's. A labelled box
    has score 1. Frames without a label show no face.
    """

    def __init__(self, frames: FolderFrames, boxes: dict[str, Box]) -> None:
        """Take the frames, which know their names once decoded, and x0 y0 x1 y1 in pixels by file name."""
        self._frames, self._boxes = frames, boxes

    def __call__(self, number: int, found: Detections) -> Detections:
        """Return the labelled face of frame ``number``, given what the detector found there."""
        box = self._boxes.get(self._frames.names[number])
        if box is None:
            return NO_FACES
        box_4 = np.array(box, np.float32)
        return Detections(box_4[None], np.ones(1, np.float32), _five_points(box_4, found)[None])


def labelled_boxes(path: str, frames: Frames) -> LabelledBoxes | None:
    """Return the labelled boxes of a video; None for one that is no folder of frames, whose faces are detected.

    Raises:
        RejectError: as ``read_labelled_boxes``.
    """
    folder = frames_folder(path)
    if folder is None or not isinstance(frames, FolderFrames):
        return None
    return LabelledBoxes(frames, read_labelled_boxes(folder))


def read_labelled_boxes(folder: str) -> dict[str, Box]:
    r"""Return the labelled boxes of one folder of frames by file name: x0 y0 x1 y1 in pixels.

    A line is ``<Person>\<video>\<frame file>,0,<centre x>,<centre y>,<width>,<height>,0.0,1``, in UTF-8 or cp1252.
    Lines that are none are skipped and counted in the log, as is every line of a frame after its first.

    Raises:
        RejectError: ``unreadable`` where the file is absent or too large, ``no_face`` where it has no line for the
            folder.
    """
    above, video = os.path.split(folder)
    path = f"{above}.labeled_faces.txt"
    boxes: dict[str, Box] = {}
    skipped = 0
    for line in _lines(path):
        named = _parse(line)
        if named is None or (named[0] == video and boxes.setdefault(named[1], named[2]) is not named[2]):
            skipped += 1
    if skipped:
        logger.warning("%s: %d lines are no labelled boxes and are skipped", printable(path), skipped)
    if not boxes:
        raise RejectError(RejectReason.NO_FACE, f"its labelled boxes are asked for, and {_name(path)} has none for it")
    return boxes


def boxes_digest(folder: str) -> str:
    """Return the sha256 (hex) of a folder's labelled boxes, whatever else the file holds; empty where none can be read.

    A video without boxes is a reject under the digest of its frames, and another one once they are there.
    """
    try:
        boxes = read_labelled_boxes(folder)
    except RejectError:
        return ""
    text = json.dumps([[printable(name), box] for name, box in sorted(boxes.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(path: str) -> list[bytes]:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(MAX_LABEL_BYTES + 1)
    except OSError as error:
        raise RejectError(
            RejectReason.UNREADABLE, f"its labelled boxes are asked for, and {_name(path)}: {error.strerror or error}"
        ) from error
    if len(data) > MAX_LABEL_BYTES:
        raise RejectError(RejectReason.UNREADABLE, f"{_name(path)} is larger than such a file can be")
    return [line for line in data.splitlines() if line.strip()]


def _parse(line: bytes) -> tuple[str, str, Box] | None:
    """Return (video, frame file, box) of a line, None where it is none."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("cp1252", "replace")
    match = _LINE.fullmatch(text.strip())
    parts = re.split(r"[\\/]", match["name"]) if match else []
    if match is None or len(parts) < 2:
        return None
    try:
        x, y, width, height = (float(number) for number in match["box"].split(",")[:4])
    except ValueError:
        return None
    within = all(math.isfinite(value) and abs(value) <= MAX_PIXELS for value in (x, y, width, height))
    if not within or width < 1 or height < 1:
        return None
    return parts[-2], parts[-1], (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _five_points(box_4: np.ndarray, found: Detections) -> np.ndarray:
    low_2, high_2 = box_4[:2], box_4[2:]
    noses_N2 = found.landmarks_N52[:, 2]
    inside_N = np.all((noses_N2 >= low_2) & (noses_N2 <= high_2), axis=1)
    if not inside_N.any():
        points_52: np.ndarray = low_2 + MEAN_FACE_52 * (high_2 - low_2)
        return points_52
    overlap_N = iou_matrix(box_4[None], found.boxes_N4)[0]
    chosen: np.ndarray = found.landmarks_N52[int(np.argmax(np.where(inside_N, overlap_N, -1.0)))]
    return chosen


def _name(path: str) -> str:
    return printable(os.path.basename(path))
