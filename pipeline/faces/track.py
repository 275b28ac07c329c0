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
MOST_STEPS = 2.0
"""A face is expected to move on by at most this many times its last step: one missed key frame is bridged, and a step
between two close key frames, which trembling may have made, is not believed for long."""
MOST_DOUBT = 0.5
"""A link is made where every other one, for its face or for its detection, is less than this times as likely."""
CATCH_UP = 1 / 3
"""Standard deviations of the smoothing over which a square that would lose its face begins to catch up."""
LEAST_SIGMA = 0.1
"""Frames; below it the neighbours' weights vanish (1e-22) and so does the line through them."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One detection of a chain: position in the list of key frames, and the row in that frame's detections."""

    key_frame: int
    detection: int


def link_detections(key_frames: KeyFrames, cuts: Sequence[int], cfg: TrackConfig) -> list[list[Sighting]]:
    """Assign each detection to at most one chain of sightings, where the link is beyond doubt.

    How likely a chain goes on with a detection is the IoU with its last box, or with that box moved on as it last
    moved, whichever is greater: faces stop and turn back as often as they go on. A chain goes on where this is at least
    ``link_iou``, no cut lies between, and the face was out of sight for at most ``max_gap_frames`` (neighbouring key
    frames always count as in sight).

    Where another chain might as well have the detection, or the chain another detection (``MOST_DOUBT``), as when faces
    cross and one hides the other, all these chains end and new ones begin: a track that ends costs some frames, one
    that changes from a person to another spoils its clips. No two links that are left compete, so none is traded.

    Order: by first frame, then by the left and upper edge of the first box, so that the numbering does not depend on
    the detector's order.
    """
    chains: list[list[Sighting]] = []
    live: list[list[Sighting]] = []
    for position, (frame, detections) in enumerate(key_frames):
        previous = key_frames[position - 1][0] if position else frame
        live = [chain for chain in live if _may_go_on(key_frames[chain[-1].key_frame][0], previous, frame, cuts, cfg)]
        last = np.array([_seen_box(chain, -1, key_frames) for chain in live]).reshape(-1, 4)
        moved = np.array([_moved_box(chain, key_frames, frame) for chain in live]).reshape(-1, 4)
        likely = np.maximum(iou_matrix(last, detections.boxes_N4), iou_matrix(moved, detections.boxes_N4))
        near, sure = likely >= cfg.link_iou, _is_sure(likely, cfg.link_iou)
        for row, detection in np.argwhere(sure):
            live[row].append(Sighting(position, int(detection)))
        fresh = sorted(
            np.flatnonzero(~sure.any(axis=0)).tolist(),
            key=lambda detection, boxes=detections.boxes_N4: tuple(boxes[detection]),  # type: ignore[misc]
        )
        started = [[Sighting(position, detection)] for detection in fresh]
        chains += started
        live = [
            chain for chain, doubtful in zip(live, near.any(axis=1) & ~sure.any(axis=1), strict=True) if not doubtful
        ]
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
    passes unchanged. A face that moves faster than that would leave its square: there the square is shifted after it,
    by no more than it takes, and smoothly. (One that swings to both sides within a third of the smoothing still leaves
    it.) While a box stays within the margin, nothing is shifted.

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
    spare_F2 = np.maximum(half_F1 - (high - low) / 2, 0)
    off_F2 = (low + high) / 2 - path_F3[:, :2]
    reach = round(CATCH_UP * sigma_frames)
    centre_F2 = path_F3[:, :2] + _smooth_cover(off_F2 - spare_F2, reach) - _smooth_cover(-off_F2 - spare_F2, reach)
    return np.concatenate([centre_F2 - half_F1, centre_F2 + half_F1], axis=1).astype(np.float32)


def still(before: Detections, after: Detections, least_iou: float) -> bool:
    """Whether both frames show the same number of faces, each at nearly the same place: an IoU of ``least_iou``."""
    if len(before.scores_N) != len(after.scores_N):
        return False
    is_near_NN = iou_matrix(before.boxes_N4, after.boxes_N4) >= least_iou
    return bool(is_near_NN.any(axis=0).all() and is_near_NN.any(axis=1).all())


def _may_go_on(last: int, previous: int, frame: int, cuts: Sequence[int], cfg: TrackConfig) -> bool:
    cut_between = bisect.bisect_right(cuts, frame) > bisect.bisect_right(cuts, last)
    return not cut_between and (last == previous or frame - last <= cfg.max_gap_frames)


def _seen_box(chain: Sequence[Sighting], index: int, key_frames: KeyFrames) -> np.ndarray:
    box_4: np.ndarray = key_frames[chain[index].key_frame][1].boxes_N4[chain[index].detection]
    return box_4.astype(np.float64)


def _moved_box(chain: Sequence[Sighting], key_frames: KeyFrames, frame: int) -> np.ndarray:
    """Where a chain's last box is at ``frame`` if the face goes on as between its last two sightings, at this size."""
    last_4 = _seen_box(chain, -1, key_frames)
    if len(chain) == 1:
        return last_4
    before, last = (key_frames[seen.key_frame][0] for seen in chain[-2:])
    step_4 = last_4 - _seen_box(chain, -2, key_frames)
    middle_2 = (step_4[:2] + step_4[2:]) / 2
    return last_4 + np.tile(middle_2, 2) * min((frame - last) / (last - before), MOST_STEPS)


def _is_sure(likely_MN: np.ndarray, least: float) -> np.ndarray:
    """Tell which links are at least ``least`` likely and beyond doubt, bool (M, N): at most one a row and a column."""
    return (likely_MN >= least) & _has_no_rival(likely_MN) & _has_no_rival(likely_MN.T).T


def _has_no_rival(likely_MN: np.ndarray) -> np.ndarray:
    """Tell where every other value of the row is less than ``MOST_DOUBT`` times this one, bool (M, N)."""
    if likely_MN.shape[1] < 2:
        return np.ones(likely_MN.shape, bool)
    second_M1, best_M1 = np.split(np.partition(likely_MN, -2, axis=1)[:, -2:], 2, axis=1)
    other_MN = np.where(likely_MN == best_M1, second_M1, best_M1)
    without_MN: np.ndarray = other_MN < MOST_DOUBT * likely_MN
    return without_MN


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


def _smooth_cover(path_FC: np.ndarray, reach: int) -> np.ndarray:
    """Return a smooth path nowhere below ``path_FC`` or 0: the greatest value within ``reach``, averaged over it."""
    cover_FC = np.maximum(path_FC, 0)
    if reach < 1 or not cover_FC.any():
        return cover_FC
    weight = np.hanning(2 * reach + 3)[1:-1]
    weight /= weight.sum()

    def windows(values_FC: np.ndarray) -> np.ndarray:
        padded = np.pad(values_FC, [(reach, reach), (0, 0)], mode="edge")
        return np.lib.stride_tricks.sliding_window_view(padded, len(weight), axis=0)

    covered: np.ndarray = windows(windows(cover_FC).max(axis=-1)) @ weight
    return covered
