"""Accuracy and AUC of binary scores, with an interval that respects which samples belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import DatasetError

CONFIDENCE = 0.95
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class BinaryMetrics:
    """accuracy at probability 0.5 and AUC, both in [0, 1]; None where a figure is not defined.

    auc_low, auc_high: 95 % bootstrap interval over ``groups`` resampled groups; None when fewer than two groups.
    """

    accuracy: float
    auc: float
    auc_low: float | None
    auc_high: float | None
    samples: int
    groups: int


def measure(
    scores_N: np.ndarray, labels_N: np.ndarray, groups: Sequence[str], *, resamples: int, seed: int
) -> BinaryMetrics:
    """Measure scores (probability of label 1) against labels (0 or 1).

    The interval comes from resampling whole groups with replacement: windows of one video are near copies, and an
    interval over windows would be far too narrow. Resamples with one class only are drawn again.

    Raises:
        DatasetError: lengths differ, a score is not finite, or only one class is present.
    """
    if not len(scores_N) == len(labels_N) == len(groups):
        raise DatasetError(f"{len(scores_N)} scores, {len(labels_N)} labels and {len(groups)} groups do not fit")
    if not np.isfinite(scores_N).all():
        raise DatasetError("a score is not a finite number; training diverged: lower the learning rate")
    if len(set(labels_N.tolist())) < 2:
        raise DatasetError(
            f"AUC needs both classes, and all {len(labels_N)} test labels are alike; test on more videos"
        )
    low, high = _interval(scores_N, labels_N, groups, resamples, seed)
    return BinaryMetrics(
        accuracy=float(((scores_N > THRESHOLD) == (labels_N == 1)).mean()),
        auc=auc(scores_N, labels_N),
        auc_low=low,
        auc_high=high,
        samples=len(labels_N),
        groups=len(set(groups)),
    )


def auc(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of (label 1, label 0) pairs in the right order, ties counting half (Mann and Whitney's U).

    Written out, since the ready-made ones cost seconds of imports for four lines. Both labels must be present.
    """
    _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    positives = int(labels_N.sum())
    u = rank_N[labels_N == 1].sum() - positives * (positives + 1) / 2
    return float(u / (positives * (len(labels_N) - positives)))


def _interval(
    scores_N: np.ndarray, labels_N: np.ndarray, groups: Sequence[str], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    names = sorted(set(groups))
    if len(names) < 2:
        return None, None
    owners = np.asarray(groups)
    members = [np.flatnonzero(owners == name) for name in names]
    rng = np.random.default_rng(seed)
    values: list[float] = []
    for _ in range(resamples * 10):  # bounded: with both classes present, one draw in ten is usable in practice
        chosen = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        if 0 < labels_N[chosen].sum() < len(chosen):
            values.append(auc(scores_N[chosen], labels_N[chosen]))
        if len(values) == resamples:
            break
    if not values:
        return None, None
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
