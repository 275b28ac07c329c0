"""From what was seen on key frames to the tracks that are worth keeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import TrackConfig
from pipeline.faces.scan import Scan
from pipeline.faces.track import KeyFrames, Sighting, build_track, link_detections
from pipeline.rows import FaceTrack, FilterReason


class JudgedTracks(NamedTuple):
    """Tracks that are kept, numbered from 0; those left out, by reason; frames in which any track shows a face."""

    kept: tuple[FaceTrack, ...]
    filtered: dict[str, int]
    shown: int


def judge_tracks(scan: Scan, cfg: TrackConfig, fps: float) -> JudgedTracks:
    """Link what a scan saw to tracks, and judge each; ``fps`` of the video decides how far paths are smoothed."""
    kept: list[FaceTrack] = []
    filtered: Counter[str] = Counter()
    has_face_F = np.zeros(scan.frames, bool)
    for chain in link_detections(scan.key_frames, scan.cuts, cfg):
        track = build_track(len(kept), chain, scan.key_frames, cfg, fps)
        has_face_F[track.start : track.end] = True
        reason = filter_reason(track, chain, scan.key_frames, scan.quality, cfg)
        if reason is None:
            kept.append(track)
        else:
            filtered[reason.value] += 1
    return JudgedTracks(tuple(kept), dict(sorted(filtered.items())), int(has_face_F.sum()))


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
