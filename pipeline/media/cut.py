"""Parts of a video: which frames and which pixels a cut leaves. Pure functions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.rows import Cut, VideoInfo

TOLERANCE_S = 1e-3
"""A frame this little before a cut's edge counts as on it: label files and Matroska round seconds to thousandths."""


def time_inside(seconds: float, cut: Cut) -> bool:
    """Tell whether a frame shown at ``seconds`` belongs to the cut: its start does, its end does not."""
    return seconds >= cut.start_s - TOLERANCE_S and not time_behind(seconds, cut)


def time_behind(seconds: float, cut: Cut) -> bool:
    """Tell whether a frame shown at ``seconds`` comes after the cut."""
    return cut.end_s is not None and seconds >= cut.end_s - TOLERANCE_S


def frame_range(cut: Cut, frames: int, fps: float) -> range:
    """Return the frames of a cut in a video of even rate, whose frame n is shown at n / fps seconds."""
    first = math.ceil((cut.start_s - TOLERANCE_S) * fps)
    stop = frames if cut.end_s is None else math.ceil((cut.end_s - TOLERANCE_S) * fps)
    return range(max(0, first), max(0, min(frames, stop)))


def box_pixels(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return a cut's box in whole pixels of the frame, x0 y0 x1 y1, inside it and at least one pixel wide and high."""
    x0, x1 = _edges(box[0], box[2], width)
    y0, y1 = _edges(box[1], box[3], height)
    return x0, y0, x1, y1


def crop_to_box(frame_HWC: np.ndarray, cut: Cut) -> np.ndarray:
    """Return the box of a frame as an array of its own, so that the frame is not kept; the frame itself without one."""
    if cut.box is None:
        return frame_HWC
    height, width = frame_HWC.shape[:2]
    x0, y0, x1, y1 = box_pixels(cut.box, width, height)
    return frame_HWC[y0:y1, x0:x1].copy()


def cut_info(info: VideoInfo, cut: Cut) -> VideoInfo:
    """Return what probing says of the part: its size in pixels, and its frames by its length (a hint, as before)."""
    frames = len(frame_range(cut, info.frames, info.fps))
    if cut.box is None:
        return replace(info, frames=frames)
    x0, y0, x1, y1 = box_pixels(cut.box, info.width, info.height)
    return replace(info, frames=frames, width=x1 - x0, height=y1 - y0)


def _edges(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(max(0, round(low * size)), size - 1)
    return first, max(first + 1, min(size, round(high * size)))
