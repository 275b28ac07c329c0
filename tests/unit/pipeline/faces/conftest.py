"""Faces drawn by a detector that knows where they are: for tests of everything around detection."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.rows import Detections, SourceVideo

MARK = (250, 40, 200)


class MarkDetector:
    """Finds squares of one colour; what it says is exact, so positions can be checked to the pixel."""

    name = "marks"

    def detect(self, frames_FHWC: np.ndarray) -> list[Detections]:
        return [self._find(frame) for frame in frames_FHWC]

    def _find(self, frame: np.ndarray) -> Detections:
        is_mark = np.abs(frame.astype(int) - MARK).max(axis=2) < 60
        rows, columns = np.flatnonzero(is_mark.any(axis=1)), np.flatnonzero(is_mark.any(axis=0))
        if not len(rows):
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
        centre = (box[:2] + box[2:]) / 2
        return Detections(box[None], np.array([0.9], np.float32), np.tile(centre, (1, 5, 1)))


@pytest.fixture
def mark_detector() -> MarkDetector:
    """Finds marks."""
    return MarkDetector()


@pytest.fixture
def marked_frames() -> Callable[..., np.ndarray]:
    """``marked_frames(frames, present, speed)`` → uint8 (F, 120, 200, 3), a mark of 40 pixels that moves right."""

    def make(frames: int, present: Callable[[int], bool] = lambda n: True, speed: float = 1.0) -> np.ndarray:
        noise = np.random.default_rng(0).integers(0, 80, (120, 200, 3)).astype(np.uint8)
        images = np.tile(noise, (frames, 1, 1, 1))
        for n in range(frames):
            if present(n):
                x = 20 + round(speed * n)
                images[n, 40:80, x : x + 40] = MARK
        return images

    return make


@pytest.fixture
def source() -> Callable[[Path], SourceVideo]:
    """Lists a file as a source video."""

    def list_one(path: Path) -> SourceVideo:
        data = path.read_bytes()
        return SourceVideo(hashlib.sha256(data).hexdigest(), str(path), path.name, len(data), labels={"label": "real"})

    return list_one
