"""Detections on key frames become tracks: one face, one box a frame, one smooth square to crop. Pure functions."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import TrackConfig
from pipeline.faces.boxes import iou_matrix
from pipeline.rows import Detections, FaceTrack

KeyFrames = Sequence[tuple[int, Detections]]
"""(frame number, its faces), frame numbers rising."""
KERNEL_REACH = 3.0
"""Standard deviations at which the smoothing kernel is cut off."""
LEAST_SIGMA = 0.1
"""Frames; below it the neighbours' weights vanish (1e-22) and so does the line through them."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One detection of a chain: position in the list of key frames, and the row in that frame's detections."""

    key_frame: int
    detection: int


def link_tracks(key_frames: KeyFrames, cuts: Sequence[int], cfg: TrackConfig, fps: float) -> list[FaceTrack]:
    """Link detections into tracks, interpolate between key frames and smooth the square that is cropped.

    Args:
        key_frames: detections on key frames of one video.
        cuts: frames at which a new shot begins, rising; no track crosses one.
        cfg: how far a face may move, be missed, and how strongly its path is smoothed.
        fps: frames per second, for the smoothing.

    Returns:
        Every track, unfiltered, numbered by first frame and then from left to right. A track begins at the first and
        ends at the last key frame that shows the face: nothing is extrapolated.
    """
    chains = link_detections(key_frames, cuts, cfg)
    return [build_track(number, chain, key_frames, cfg, fps) for number, chain in enumerate(chains)]


def link_detections(key_frames: KeyFrames, cuts: Sequence[int], cfg: TrackConfig) -> list[list[Sighting]]:
    """Assign each detection to one chain of sightings, maximising the IoU between neighbours (Hungarian method).

    A chain goes on where the IoU is at least ``link_iou``, no cut lies between, and the face was out of sight for at
    most ``max_gap_frames`` (neighbouring key frames always count as in sight). Order: by first frame, then by the left
    and upper edge of the first box, so that the numbering does not depend on the detector's order.
    """
    chains: list[list[Sighting]] = []
    live: list[list[Sighting]] = []
    for position, (frame, detections) in enumerate(key_frames):
        previous = key_frames[position - 1][0] if position else frame
        live = [chain for chain in live if _may_go_on(key_frames[chain[-1].key_frame][0], previous, frame, cuts, cfg)]
        taken = _assign(live, key_frames, detections, cfg.link_iou)
        for chain, detection in taken:
            chain.append(Sighting(position, detection))
        fresh = sorted(
            set(range(len(detections.scores_N))) - {detection for _, detection in taken},
            key=lambda detection, boxes=detections.boxes_N4: tuple(boxes[detection]),  # type: ignore[misc]
        )
        started = [[Sighting(position, detection)] for detection in fresh]
        chains += started
        live += started
    return chains


def build_track(
    number: int, chain: Sequence[Sighting], key_frames: KeyFrames, cfg: TrackConfig, fps: float
) -> FaceTrack:
    """Interpolate a chain's boxes, landmarks and scores linearly to every frame and add the smoothed square path."""
    frames_K = np.array([key_frames[seen.key_frame][0] for seen in chain])
    rows = [(key_frames[seen.key_frame][1], seen.detection) for seen in chain]
    every_F = np.arange(frames_K[0], frames_K[-1] + 1)
    boxes_F4 = _interpolate(every_F, frames_K, np.stack([faces.boxes_N4[row] for faces, row in rows]))
    return FaceTrack(
        track=number,
        start=int(frames_K[0]),
        boxes_F4=boxes_F4,
        crops_F4=smooth_path(boxes_F4, sigma_frames=cfg.smooth_s * fps, margin=cfg.margin),
        landmarks_F52=_interpolate(every_F, frames_K, np.stack([faces.landmarks_N52[row] for faces, row in rows])),
        scores_F=_interpolate(every_F, frames_K, np.stack([faces.scores_N[row] for faces, row in rows])),
    )


def smooth_path(boxes_F4: np.ndarray, *, sigma_frames: float, margin: float) -> np.ndarray:
    """Turn a path of boxes into a smooth path of squares around them.

    Centre and longer side are smoothed by a line fitted at each frame with Gaussian weights (local linear regression):
    away from the ends this is the Gaussian filter, and at the ends it does not lag behind a moving face. Even motion
    passes unchanged.

    Args:
        boxes_F4: float (F, 4), x0 y0 x1 y1.
        sigma_frames: standard deviation of the weights in frames; 0 does not smooth.
        margin: side of the square over the longer side of the box.

    Returns:
        float32 (F, 4), squares; may reach outside the frame.
    """
    boxes = boxes_F4.astype(np.float64)
    low, high = boxes[:, :2], boxes[:, 2:]
    longer_F1 = (high - low).max(axis=1, keepdims=True)
    path_F3 = _local_linear(np.concatenate([(low + high) / 2, longer_F1], axis=1), sigma_frames)
    # A line fitted to a side that shrinks fast may undershoot at the ends; a square never falls below half its own box.
    half_F1 = np.maximum(path_F3[:, 2:], longer_F1 / 2) * margin / 2
    return np.concatenate([path_F3[:, :2] - half_F1, path_F3[:, :2] + half_F1], axis=1).astype(np.float32)


def still(before: Detections, after: Detections, least_iou: float) -> bool:
    """Whether both frames show the same number of faces, each at nearly the same place: an IoU of ``least_iou``."""
    if len(before.scores_N) != len(after.scores_N):
        return False
    iou = iou_matrix(before.boxes_N4, after.boxes_N4)
    rows, columns = _best_pairs(iou)
    return bool(np.all(iou[rows, columns] >= least_iou))


def _may_go_on(last: int, previous: int, frame: int, cuts: Sequence[int], cfg: TrackConfig) -> bool:
    cut_between = bisect.bisect_right(cuts, frame) > bisect.bisect_right(cuts, last)
    return not cut_between and (last == previous or frame - last <= cfg.max_gap_frames)


def _assign(
    live: list[list[Sighting]], key_frames: KeyFrames, detections: Detections, least_iou: float
) -> list[tuple[list[Sighting], int]]:
    if not live or not len(detections.scores_N):
        return []
    last_boxes = np.stack([key_frames[chain[-1].key_frame][1].boxes_N4[chain[-1].detection] for chain in live])
    iou = iou_matrix(last_boxes, detections.boxes_N4)
    # Pairs below the threshold must not be traded for good ones: they count as nothing.
    rows, columns = _best_pairs(np.where(iou >= least_iou, iou, 0.0))
    return [(live[r], int(c)) for r, c in zip(rows, columns, strict=True) if iou[r, c] >= least_iou]


def _best_pairs(score_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair rows with columns, each at most once, so that the sum of scores is greatest: rows and columns, int (P,)."""
    from scipy.optimize import linear_sum_assignment  # half of what a decoding child has to load

    rows_P, columns_P = linear_sum_assignment(score_MN, maximize=True)
    return rows_P, columns_P


def _interpolate(every_F: np.ndarray, frames_K: np.ndarray, values_K: np.ndarray) -> np.ndarray:
    flat_K = values_K.reshape(len(frames_K), -1)
    columns = [np.interp(every_F, frames_K, column) for column in flat_K.T]
    return np.stack(columns, axis=1).reshape(len(every_F), *values_K.shape[1:]).astype(np.float32)


def _local_linear(path_FC: np.ndarray, sigma: float) -> np.ndarray:
    """Evaluate at each frame the line that fits its neighbourhood best, weights Gaussian in the distance."""
    frames = len(path_FC)
    reach = min(int(np.ceil(KERNEL_REACH * sigma)), frames - 1)
    if reach < 1 or sigma < LEAST_SIGMA:
        return path_FC
    distance = np.arange(-reach, reach + 1, dtype=np.float64)
    weight = np.exp(-0.5 * (distance / sigma) ** 2)

    def sums(values_F: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        # Convolution turns the kernel round: the odd sums s1 and t1 change sign, and only their product is used.
        # Cut by hand, since numpy's mode "same" follows the longer of the two.
        return np.convolve(values_F, kernel)[reach : reach + frames]

    ones = np.ones(frames)
    s0, s1, s2 = (sums(ones, weight * distance**power) for power in range(3))
    offset_C = path_FC.mean(axis=0)  # for the numbers' sake: far from 0, the sums below would cancel
    fitted = []
    for values_F in (path_FC - offset_C).T:
        t0, t1 = sums(values_F, weight), sums(values_F, weight * distance)
        fitted.append((s2 * t0 - s1 * t1) / (s2 * s0 - s1**2))
    return np.stack(fitted, axis=1) + offset_C
