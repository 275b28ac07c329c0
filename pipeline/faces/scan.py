"""The first pass over a video: shot boundaries, and the faces on its key frames with their quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import TrackConfig
from pipeline.faces.backend import FaceDetector
from pipeline.faces.crop import blur_and_exposure, crop_square
from pipeline.faces.shots import ShotDetector
from pipeline.faces.track import smooth_path
from pipeline.media.clock import StageClock
from pipeline.rows import Detections

Choose = Callable[[int, Detections], Detections]
QUALITY_SIZE = 224
"""Side of the crops that blur and exposure are measured on: that of the stored clip."""


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
) -> Scan:
    """Detect faces on every n-th frame, on the first and last frame of each shot, and on the last frame.

    Args:
        chunks: (start, uint8 RGB (F, H, W, 3)), consecutive; results do not depend on how they are cut.
        detector: finds faces.
        cfg: key-frame distance, shot threshold, margin.
        hold_bytes: frames are kept for the second pass while all of them together take no more than this.
        clock: gets the seconds of stages ``shots``, ``detect`` and ``quality``.
        choose: has the last word on each key frame's faces, given its number and what was detected.
    """
    scan, shots = Scan(), ShotDetector(cfg.shot_threshold)
    held_bytes = 0
    last_HWC: np.ndarray | None = None
    for start, frames_FHWC in chunks:
        with clock("shots"):
            cuts = shots.cuts(frames_FHWC, start)
        stop = start + len(frames_FHWC)
        wanted = {n for n in range(start, stop) if n % cfg.key_frame_stride == 0} | set(cuts) | {c - 1 for c in cuts}
        if start - 1 in wanted and last_HWC is not None:  # a cut right at the border of two chunks
            _detect(scan, [start - 1], last_HWC[None], detector, cfg, clock, choose)
        here = sorted(n for n in wanted if n >= start)
        if here:
            _detect(scan, here, frames_FHWC[[n - start for n in here]], detector, cfg, clock, choose)
        scan.cuts += cuts
        scan.frames = stop
        last_HWC = frames_FHWC[-1].copy()
        held_bytes += frames_FHWC.nbytes
        if held_bytes > hold_bytes:
            scan.held = None
        elif scan.held is not None:
            scan.held.append((start, frames_FHWC))
    if last_HWC is not None:
        _detect(scan, [scan.frames - 1], last_HWC[None], detector, cfg, clock, choose)
    return scan


def _detect(
    scan: Scan,
    numbers: Sequence[int],
    frames_FHWC: np.ndarray,
    detector: FaceDetector,
    cfg: TrackConfig,
    clock: StageClock,
    choose: Choose | None,
) -> None:
    known = scan.key_frames[-1][0] if scan.key_frames else -1
    fresh = [row for row, number in enumerate(numbers) if number > known]
    if not fresh:
        return
    with clock("detect"):
        found = detector.detect(frames_FHWC[fresh])
    if choose is not None:
        found = [choose(numbers[row], detections) for row, detections in zip(fresh, found, strict=True)]
    with clock("quality"):
        for row, detections in zip(fresh, found, strict=True):
            squares_N4 = smooth_path(detections.boxes_N4, sigma_frames=0, margin=cfg.margin)
            crops = (crop_square(frames_FHWC[row], square_4, QUALITY_SIZE) for square_4 in squares_N4)
            scan.key_frames.append((numbers[row], detections))
            scan.quality.append([blur_and_exposure(crop) for crop in crops])
