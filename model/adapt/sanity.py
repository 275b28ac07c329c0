"""The first question when nothing is learnt: can one batch be learnt by heart?

Asked of the frozen features of a mixed batch and answered by least squares, so it costs no forward pass and no learning
rate can spoil it: a linear layer over more dimensions than samples fits any labels, unless samples of different labels
look alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.errors import TrainingError
from model.adapt.features import FeatureTable
from model.adapt.task import TaskSpec

BATCH = 16
RESOLUTION = 1e-5
"""Directions in which features differ by less than this, over the largest, are rounding and tell nothing apart."""
MAY_REMAIN = 0.2
"""Share of the labels' variance that may be left unexplained."""


@dataclass(frozen=True, slots=True)
class OverfitCheck:
    """Share of the labels' variance that is left after learning one batch by heart, and how many samples it had."""

    remains: float
    samples: int

    def sentence(self) -> str:
        """Return the result for people."""
        return f"One batch of {self.samples} was learnt by heart: {self.remains:.0%} of the labels' variance is left."


def overfit_one_batch(task: TaskSpec, table: FeatureTable) -> OverfitCheck:
    """Learn one batch of training samples by heart, as many different targets in it as there are.

    Raises:
        TrainingError: it cannot be learnt, which no amount of data or epochs would cure.
    """
    rows = mixed_rows(table.targets_NJ, min(BATCH, table.features_ND.shape[1]))
    x_BD, targets_BJ = table.features_ND[rows].astype(np.float64), table.targets_NJ[rows].astype(np.float64)
    remains = 1.0
    if np.isfinite(x_BD).all():
        y_BJ = np.eye(task.width)[targets_BJ[:, 0].astype(int)] if task.kind == "multiclass" else targets_BJ
        x_BD, y_BJ = x_BD - x_BD.mean(axis=0), y_BJ - y_BJ.mean(axis=0)
        if np.abs(x_BD).max() > RESOLUTION:
            w_DJ, *_ = np.linalg.lstsq(x_BD, y_BJ, rcond=RESOLUTION)
            remains = float(((y_BJ - x_BD @ w_DJ) ** 2).sum() / max((y_BJ**2).sum(), 1e-12))
    if remains > MAY_REMAIN:
        raise TrainingError(
            f"one batch of {len(rows)} training samples cannot be learnt by heart ({remains:.0%} of the labels' "
            "variance is left): samples with different labels look alike to the encoder, so pixels, labels or weights "
            "are broken; look at the clips (`marlin dataset report`) and at the labels"
        )
    return OverfitCheck(remains, len(rows))


def mixed_rows(targets_NJ: np.ndarray, count: int) -> np.ndarray:
    """Return up to ``count`` rows, one of each distinct target in turn."""
    _, group_N = np.unique(targets_NJ, axis=0, return_inverse=True)
    group_N = group_N.reshape(-1)
    turn_N = np.zeros(len(group_N), np.int64)
    for group in np.unique(group_N):
        members = np.flatnonzero(group_N == group)
        turn_N[members] = np.arange(len(members))
    return np.lexsort((group_N, turn_N))[:count]
