"""Arithmetic on boxes ``x0 y0 x1 y1`` in pixels."""

from __future__ import annotations

import numpy as np

from pipeline.rows import Detections

NO_FACES = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
"""A frame without a face."""


def iou_matrix(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: float64 (N, M) in [0, 1]; 0 for boxes without area."""
    low = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1, dtype=np.float64)
    union = _areas(a_N4)[:, None] + _areas(b_M4)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def non_maximum_suppression(boxes_N4: np.ndarray, scores_N: np.ndarray, threshold: float) -> np.ndarray:
    """Return the indices, best score first, of boxes that no better box overlaps by an IoU of ``threshold`` or more."""
    order = np.argsort(-scores_N, kind="stable")
    overlap_NN = iou_matrix(boxes_N4, boxes_N4)
    kept: list[int] = []
    for index in order:
        if not np.any(overlap_NN[index, kept] >= threshold):
            kept.append(int(index))
    return np.asarray(kept, dtype=np.int64)


def reduced_size(width: int, height: int, long_side: int, multiple: int = 32) -> tuple[int, int]:
    """Return (width, height) with the long side at most ``long_side``, both rounded up to a ``multiple``."""
    scale = min(1.0, long_side / max(width, height))
    across, down = (max(1, -(-round(side * scale) // multiple)) * multiple for side in (width, height))
    return across, down


def _areas(boxes_N4: np.ndarray) -> np.ndarray:
    return np.prod(np.clip(boxes_N4[:, 2:] - boxes_N4[:, :2], 0, None), axis=-1, dtype=np.float64)
