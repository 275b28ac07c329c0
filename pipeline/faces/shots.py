"""Shot boundaries, from frames reduced to small grey thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

THUMB_WIDTH, THUMB_HEIGHT = 32, 18
"""Small enough to cost nothing and to forget noise and camera shake, large enough to tell two scenes apart."""


def thumbnails(frames_FHWC: np.ndarray) -> np.ndarray:
    """Reduce uint8 RGB frames (F, H, W, 3) to grey float32 (F, 18, 32) in [0, 1]."""
    # Every n-th pixel still leaves 4x4 to average for each of the thumbnail's: a tenth of the cost at 720p.
    step = max(1, min(frames_FHWC.shape[1] // (4 * THUMB_HEIGHT), frames_FHWC.shape[2] // (4 * THUMB_WIDTH)))
    sampled_FHWC = frames_FHWC[:, ::step, ::step]
    small = [
        cv2.resize(np.ascontiguousarray(frame), (THUMB_WIDTH, THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
        for frame in sampled_FHWC
    ]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in small]
    return np.stack(grey).astype(np.float32) / 255


class ShotDetector:
    """Finds the first frame of each new shot in a stream of chunks; holds one thumbnail between calls.

    A boundary is a mean absolute difference between neighbouring thumbnails above ``threshold``. A boundary seen where
    there is none (a flash) only splits a track in two; a missed one is caught by linking, unless the next shot has a
    face at the same place.
    """

    def __init__(self, threshold: float) -> None:
        """``threshold`` is in [0, 1] of full scale."""
        self._threshold = threshold
        self._last: np.ndarray | None = None

    def cuts(self, frames_FHWC: np.ndarray, start: int) -> Sequence[int]:
        """Return the frame numbers, within this chunk that begins at ``start``, at which a new shot begins."""
        thumbs = thumbnails(frames_FHWC)
        before = thumbs[:1] if self._last is None else self._last[None]
        jumps_F = np.abs(np.diff(np.concatenate([before, thumbs]), axis=0)).mean(axis=(1, 2))
        self._last = thumbs[-1]
        return [start + int(index) for index in np.flatnonzero(jumps_F > self._threshold)]
