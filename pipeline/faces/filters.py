"""Which tracks are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config import TrackConfig
from pipeline.faces.track import KeyFrames, Sighting
from pipeline.rows import FaceTrack, FilterReason


def filter_reason(
    track: FaceTrack,
    chain: Sequence[Sighting],
    key_frames: KeyFrames,
    quality: Sequence[Sequence[tuple[float, float]]],
    cfg: TrackConfig,
) -> FilterReason | None:
    """Return why a track is left out, or None; the first reason in the order of FilterReason counts.

    Args:
        track: the track.
        chain: the sightings it was built from.
        key_frames: the key frames, by position.
        quality: (blur, exposure) by key frame and detection; a track has the mean over its frames, with what lies
            between two sightings on the line between them, since key frames lie closer where pictures change.
        cfg: the bounds.
    """
    frames_F = np.arange(track.start, track.end)
    seen_K = [key_frames[seen.key_frame][0] for seen in chain]
    quality_K2 = np.array([quality[seen.key_frame][seen.detection] for seen in chain])
    blur, exposure = (float(np.interp(frames_F, seen_K, values_K).mean()) for values_K in quality_K2.T)
    darkest, brightest = cfg.exposure_range
    checks = {
        FilterReason.TOO_SHORT: len(track.scores_F) < cfg.min_frames,
        FilterReason.TOO_SMALL: face_side(track.boxes_F4) < cfg.min_face_px,
        FilterReason.LOW_SCORE: float(track.scores_F.mean()) < cfg.min_score,
        FilterReason.BLURRED: blur < cfg.min_blur,
        FilterReason.EXPOSURE: not darkest <= exposure <= brightest,
    }
    return next((reason for reason, applies in checks.items() if applies), None)


def face_side(boxes_F4: np.ndarray) -> float:
    """Mean side of a path of boxes in pixels: the mean of their widths and heights."""
    return float((boxes_F4[:, 2:] - boxes_F4[:, :2]).mean())
