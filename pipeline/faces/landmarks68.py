"""LaPa regions drawn from dlib's 68 landmarks (Kazemi and Sullivan, 2014), for want of a parsing network.

The predictor ships inside ``face-recognition-models`` and was trained for the boxes of dlib's own detector, so such a
box is made from the five points of the face detector. It knows no hair: what it does not draw is background.
"""

from __future__ import annotations

import cv2
import dlib
import numpy as np

from pipeline.faces.package_weights import LANDMARKS68, package_file
from pipeline.faces.regions import Region

# dlib's boxes over the size of the face (the diagonal of eye distance and eye-to-mouth distance), centred between
# eyes and mouth: medians over 129 faces in ten real videos, on which dlib's own detector was run as well.
BOX_SIDE = 1.57
FOREHEAD = 0.68
"""Height of the forehead above the brows where no setting says otherwise (``EmbeddedFaces.forehead``)."""
BROW_THICKNESS = 0.075
EYE_MARGIN = 0.02
"""Thickness of the brush for brows, and of the outline added to eyes, over the size of the face."""
NOSE_WIDENING = 1.35
"""dlib marks the nostrils; the wings reach further out."""

# Index ranges in the 68 points. "Right" is the person's, which is on the left of the picture.
JAW = slice(0, 17)
RIGHT_BROW, LEFT_BROW = slice(17, 22), slice(22, 27)
BRIDGE, NOSTRILS = slice(27, 31), slice(31, 36)
RIGHT_EYE, LEFT_EYE = slice(36, 42), slice(42, 48)
UPPER_LIP = [48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60]
LOWER_LIP = [54, 55, 56, 57, 58, 59, 48, 60, 67, 66, 65, 64]
INNER_MOUTH = slice(60, 68)
NOSE_BASE, CHIN = 33, 8
SUBPIXEL = 4
"""Bits of fraction that OpenCV's drawing takes."""


class LandmarkParser:
    """Draws label maps on one CPU thread; deterministic, and a map depends on its own crop alone."""

    name = "landmarks68"

    def __init__(self, forehead: float = FOREHEAD) -> None:
        """Load the predictor.

        Args:
            forehead: height of the forehead above the brows, over the distance from brows to the base of the nose.

        Raises:
            WeightsError: the package that ships it is not installed.
        """
        self._forehead = forehead
        self._predictor = dlib.shape_predictor(str(package_file(*LANDMARKS68)))

    def parse(self, crops_RHWC: np.ndarray, landmarks_R52: np.ndarray) -> np.ndarray:
        """Return LaPa label maps, uint8 (R, H, W), of uint8 RGB crops with five landmarks each, in crop pixels."""
        height, width = crops_RHWC.shape[1:3]
        maps = [
            draw_regions(self.points(crop, landmarks), height, width, self._forehead)
            for crop, landmarks in zip(crops_RHWC, landmarks_R52, strict=True)
        ]
        return np.stack(maps) if maps else np.zeros((0, height, width), np.uint8)

    def points(self, crop_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        """Return the 68 points of one face, float32 (68, 2), x y in crop pixels."""
        centre_2, size = face_centre_and_size(landmarks_52)
        half = BOX_SIDE * size / 2
        box = dlib.rectangle(*(round(float(edge)) for edge in (*(centre_2 - half), *(centre_2 + half))))
        shape = self._predictor(np.ascontiguousarray(crop_HWC), box)
        return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def face_centre_and_size(landmarks_52: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle between eyes and mouth, and the size of the face in pixels, at least 1.

    The size is the diagonal of eye distance and eye-to-mouth distance: a turned head shortens the one, a nod the other.
    """
    right_eye, left_eye, _, right_mouth, left_mouth = landmarks_52.astype(np.float64)
    eyes, mouth = (right_eye + left_eye) / 2, (right_mouth + left_mouth) / 2
    size = np.hypot(np.linalg.norm(left_eye - right_eye), np.linalg.norm(mouth - eyes))
    return (eyes + mouth) / 2, max(1.0, float(size))


def draw_regions(points_68: np.ndarray, height: int, width: int, forehead: float = FOREHEAD) -> np.ndarray:
    """Draw the LaPa label map, uint8 (height, width), of one face from its 68 points; later regions cover earlier."""
    size = float(np.linalg.norm(points_68[JAW.start] - points_68[JAW.stop - 1]))
    map_HW = np.full((height, width), Region.BACKGROUND, np.uint8)
    _fill(map_HW, np.concatenate([points_68[JAW], _forehead(points_68, forehead)]), Region.SKIN)
    _stroke(map_HW, points_68[RIGHT_BROW], BROW_THICKNESS * size, Region.RIGHT_BROW)
    _stroke(map_HW, points_68[LEFT_BROW], BROW_THICKNESS * size, Region.LEFT_BROW)
    for eye, region in ((RIGHT_EYE, Region.RIGHT_EYE), (LEFT_EYE, Region.LEFT_EYE)):
        _fill(map_HW, points_68[eye], region)
        _stroke(map_HW, points_68[eye], EYE_MARGIN * size, region, closed=True)
    _fill(map_HW, _nose(points_68), Region.NOSE)
    _fill(map_HW, points_68[INNER_MOUTH], Region.INNER_MOUTH)
    _fill(map_HW, points_68[UPPER_LIP], Region.UPPER_LIP)
    _fill(map_HW, points_68[LOWER_LIP], Region.LOWER_LIP)
    return map_HW


def _forehead(points_68: np.ndarray, height: float) -> np.ndarray:
    """Half an ellipse from the left end of the jaw line over the forehead back to its right end, (15, 2)."""
    right_end, left_end = points_68[JAW.start], points_68[JAW.stop - 1]
    brows = points_68[RIGHT_BROW.start : LEFT_BROW.stop].mean(axis=0)
    up = brows - points_68[CHIN]
    up = up / max(1e-6, float(np.linalg.norm(up)))
    apex = brows + up * height * float(np.linalg.norm(points_68[NOSE_BASE] - brows))
    middle = (right_end + left_end) / 2
    angle_A1 = np.linspace(0, np.pi, 17)[1:-1, None]
    height_A1 = np.sin(angle_A1) ** 0.6  # a forehead is broader than an ellipse
    return middle + (left_end - middle) * np.cos(angle_A1) + (apex - middle) * height_A1


def _nose(points_68: np.ndarray) -> np.ndarray:
    root, _, ridge, tip = points_68[BRIDGE]
    nostrils, base = points_68[NOSTRILS], points_68[NOSE_BASE]
    across = (nostrils[-1] - nostrils[0]) / 2
    wings = base + (nostrils - base) * NOSE_WIDENING
    lift = (tip - base) / 2  # the wings reach up to half the height of the tip
    right_edge = [root - across * 0.35, ridge - across * 0.6, wings[0] + lift]
    left_edge = [wings[-1] + lift, ridge + across * 0.6, root + across * 0.35]
    return np.stack([*right_edge, *wings, *left_edge])


def _fill(map_HW: np.ndarray, polygon_P2: np.ndarray, region: Region) -> None:
    cv2.fillPoly(map_HW, [_fixed_point(polygon_P2)], int(region), lineType=cv2.LINE_8, shift=SUBPIXEL)


def _stroke(map_HW: np.ndarray, line_P2: np.ndarray, thickness: float, region: Region, *, closed: bool = False) -> None:
    brush = max(1, round(thickness))
    cv2.polylines(map_HW, [_fixed_point(line_P2)], closed, int(region), brush, lineType=cv2.LINE_8, shift=SUBPIXEL)


def _fixed_point(points_P2: np.ndarray) -> np.ndarray:
    return np.round(points_P2 * (1 << SUBPIXEL)).astype(np.int32)[:, None]
