"""The first pass over a video: shot boundaries, and the faces on its key frames with their quality.

Key frames lie far apart where faces keep still and close where they move, come or go: a stretch of frames is kept, its
ends are looked at, and it is halved as long as its two ends do not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pipeline.config import TrackConfig
from pipeline.faces.backend import FaceDetector
from pipeline.faces.crop import blur_and_exposure, crop_square
from pipeline.faces.shots import ShotDetector
from pipeline.faces.track import smooth_path, still
from pipeline.media.clock import StageClock
from pipeline.rows import Detections

QUALITY_SIZE = 224
"""Side of the crops that blur and exposure are measured on: that of the stored clip."""
WINDOW_KEY_FRAMES = 8
"""Key frames detected together: networks on small frames are twice as fast in batches."""
WINDOW_BYTES = 64 << 20
"""Frames kept for one window, unless a single stretch needs more."""

Choose = Callable[[int, Detections], Detections]
"""(frame number, what was detected) → the faces that count."""


@dataclass(slots=True)
class Scan:
    """What the first pass saw.

    ``quality[k][n]`` is (blur, exposure) of detection n on key frame k. ``held`` keeps the chunks where the whole video
    fits the budget, else it is None and the second pass decodes again.
    """

    frames: int = 0
    cuts: list[int] = field(default_factory=list)
    key_frames: list[tuple[int, Detections]] = field(default_factory=list)
    quality: list[list[tuple[float, float]]] = field(default_factory=list)
    held: list[tuple[int, np.ndarray]] | None = field(default_factory=list)

    @property
    def faces(self) -> int:
        """Detections on all key frames."""
        return sum(len(detections.scores_N) for _, detections in self.key_frames)


def scan_faces(
    chunks: Iterable[tuple[int, np.ndarray]],
    detector: FaceDetector,
    cfg: TrackConfig,
    *,
    hold_bytes: int,
    clock: StageClock,
    choose: Choose | None = None,
    follows_loss: Callable[[int], bool] = lambda number: False,
) -> Scan:
    """Detect faces on every n-th frame, on the first and last frame of each shot, and between where they move.

    Args:
        chunks: (start, uint8 RGB (F, H, W, 3)), consecutive; results do not depend on how they are cut.
        detector: finds faces.
        cfg: distances of key frames, shot threshold, margin.
        hold_bytes: frames are kept for the second pass while all of them together take no more than this.
        clock: gets the seconds of stages ``shots``, ``detect`` and ``quality``.
        choose: has the last word on each key frame's faces, given its number and what was detected.
        follows_loss: tells of a frame in the chunk at hand whether others were lost before it: a shot begins there.
    """
    scan, shots = Scan(), ShotDetector(cfg.shot_threshold)
    window = _Window(scan, detector, cfg, clock, choose)
    held_bytes = 0
    last_HWC: np.ndarray | None = None
    for start, frames_FHWC in chunks:
        with clock("shots"):
            seen = shots.cuts(frames_FHWC, start)
        cuts = sorted({*seen, *filter(follows_loss, range(start, start + len(frames_FHWC)))})
        for number, frame_HWC in enumerate(frames_FHWC, start):
            if number in cuts and last_HWC is not None:
                window.end_shot(number - 1, last_HWC)
            window.add(number, frame_HWC, begins_shot=number in cuts)
            last_HWC = frame_HWC
        last_HWC = frames_FHWC[-1].copy()
        scan.cuts += cuts
        scan.frames = start + len(frames_FHWC)
        held_bytes += frames_FHWC.nbytes
        if held_bytes > hold_bytes:
            scan.held = None
        elif scan.held is not None:
            scan.held.append((start, frames_FHWC))
    if last_HWC is not None:
        window.end_shot(scan.frames - 1, last_HWC)
    return scan


class _Window:
    """The frames since the last detection that may become key frames: every n-th surely, those between if need be."""

    def __init__(
        self, scan: Scan, detector: FaceDetector, cfg: TrackConfig, clock: StageClock, choose: Choose | None
    ) -> None:
        self._scan, self._detector, self._cfg, self._clock, self._choose = scan, detector, cfg, clock, choose
        self._kept: dict[int, np.ndarray] = {}
        self._sure: list[int] = []
        self._before: tuple[int, Detections] | None = None
        """The last key frame of the window before, within the same shot."""

    def add(self, number: int, frame_HWC: np.ndarray, *, begins_shot: bool) -> None:
        sure = begins_shot or number % self._cfg.key_frame_stride == 0
        if sure or number % self._cfg.fine_stride == 0:
            self._kept[number] = frame_HWC.copy()
        if sure:
            self._sure.append(number)
            held = sum(kept.nbytes for kept in self._kept.values())
            if len(self._sure) >= WINDOW_KEY_FRAMES or held > WINDOW_BYTES:
                self._detect_all()

    def end_shot(self, number: int, frame_HWC: np.ndarray) -> None:
        """The shot ends with this frame, which has been added before."""
        if (self._before is None or self._before[0] != number) and number not in self._sure:
            self._kept[number] = frame_HWC.copy()
            self._sure.append(number)
        self._detect_all()
        self._before = None

    def _detect_all(self) -> None:
        found = self._detect(self._sure)
        ends = sorted([*found, self._before[0]] if self._before else found)
        known = {**found, self._before[0]: self._before[1]} if self._before else dict(found)
        stretches = list(pairwise(ends))
        while stretches:
            between = [(low, self._middle(low, high), high) for low, high in stretches]
            halved = [
                (low, middle, high)
                for low, middle, high in between
                if middle is not None and not still(known[low], known[high], self._cfg.still_iou)
            ]
            fresh = self._detect([middle for _, middle, _ in halved if middle is not None])
            known |= fresh
            found |= fresh
            stretches = [pair for low, middle, high in halved for pair in ((low, middle), (middle, high))]
        self._file(found)
        if ends:
            self._before = (ends[-1], known[ends[-1]])
        self._kept, self._sure = {}, []

    def _middle(self, low: int, high: int) -> int | None:
        """The kept frame between two that is nearest to their middle; None where there is none."""
        between = [number for number in self._kept if low < number < high]
        return min(between, key=lambda number: (abs(2 * number - low - high), number), default=None)

    def _detect(self, numbers: list[int]) -> dict[int, Detections]:
        if not numbers:
            return {}
        with self._clock("detect"):
            found = self._detector.detect(np.stack([self._kept[number] for number in numbers]))
        if self._choose is None:
            return dict(zip(numbers, found, strict=True))
        return {number: self._choose(number, faces) for number, faces in zip(numbers, found, strict=True)}

    def _file(self, found: dict[int, Detections]) -> None:
        with self._clock("quality"):
            for number in sorted(found):
                squares_N4 = smooth_path(found[number].boxes_N4, sigma_frames=0, margin=self._cfg.margin)
                crops = (crop_square(self._kept[number], square_4, QUALITY_SIZE) for square_4 in squares_N4)
                self._scan.key_frames.append((number, found[number]))
                self._scan.quality.append([blur_and_exposure(crop) for crop in crops])
