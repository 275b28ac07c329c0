"""Cropping a square from a frame, and judging it."""

from __future__ import annotations

import cv2
import numpy as np


def crop_square(frame_HWC: np.ndarray, square_4: np.ndarray, size: int) -> np.ndarray:
    """Cut a square from a frame and resize it; black outside the frame.

    Args:
        frame_HWC: uint8 RGB (H, W, 3).
        square_4: x0 y0 x1 y1 in pixels, at least one across. May lie outside the frame.
        size: side of the result.

    Returns:
        uint8 RGB (size, size, 3). A square larger than ``size`` is rounded to whole pixels and area-averaged; a smaller
        one is cut at its exact place and interpolated, since there a pixel more or less would shake the picture.
    """
    exact_side = max(1.0, float(square_4[2] - square_4[0]))
    if exact_side <= size:
        return _enlarged(frame_HWC, float(square_4[0]), float(square_4[1]), exact_side / size, size)
    height, width = frame_HWC.shape[:2]
    side, x0, y0 = round(exact_side), round(float(square_4[0])), round(float(square_4[1]))
    left, top = np.clip(x0, 0, width), np.clip(y0, 0, height)
    right, bottom = np.clip(x0 + side, 0, width), np.clip(y0 + side, 0, height)
    inside_HWC = frame_HWC[top:bottom, left:right]
    if inside_HWC.shape[:2] != (side, side):
        padded_HWC = np.zeros((side, side, 3), np.uint8)
        padded_HWC[top - y0 : bottom - y0, left - x0 : right - x0] = inside_HWC
        inside_HWC = padded_HWC
    return cv2.resize(inside_HWC, (size, size), interpolation=cv2.INTER_AREA)


def blur_and_exposure(crop_HWC: np.ndarray) -> tuple[float, float]:
    """Return the variance of the Laplacian of the grey crop (higher is sharper) and its mean grey level, [0, 255]."""
    grey_HW = cv2.cvtColor(crop_HWC, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey_HW, cv2.CV_32F))
    return float(deviation[0, 0] ** 2), float(cv2.mean(grey_HW)[0])


def _enlarged(frame_HWC: np.ndarray, x0: float, y0: float, step: float, size: int) -> np.ndarray:
    # warpAffine counts from pixel centres: centre i of the result lies at (i + ½) · step - ½ behind the square's corner
    half = step / 2 - 0.5
    to_source = np.array([[step, 0, x0 + half], [0, step, y0 + half]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame_HWC, to_source, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)
