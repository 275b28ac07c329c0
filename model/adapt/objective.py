"""Loss, probabilities and class weights of each kind of task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from model.adapt.task import Kind, TaskSpec

MAX_WEIGHT = 20.0
"""A class that is rarer than this against the others weighs no more: a handful of samples must not carry the loss."""


def task_loss(kind: Kind, logits_BK: Tensor, targets_BJ: Tensor, weights_K: Tensor | None = None) -> Tensor:
    """Return the mean loss of a batch, 0-d fp32: cross-entropy of each kind, squared error for regression.

    The mean over parts of a batch, each with its share of samples, is that of the whole.

    Args:
        kind: of the task.
        logits_BK: any float dtype.
        targets_BJ: as ``model.adapt.task.Target``.
        weights_K: of the positives of each output (binary, multilabel) or of the classes (multiclass).
    """
    logits_BK = logits_BK.float()
    if kind == "regression":
        return F.mse_loss(logits_BK, targets_BJ)
    if kind == "multiclass":
        losses_B = F.cross_entropy(logits_BK, targets_BJ[:, 0].long(), weight=weights_K, reduction="none")
        return losses_B.mean()  # torch's own mean divides by the weights of a batch: none are left of a batch of one
    return F.binary_cross_entropy_with_logits(logits_BK, targets_BJ, pos_weight=weights_K)


def probabilities(kind: Kind, logits_BK: Tensor) -> Tensor:
    """Return what scores are made of, float64 (B, K): probabilities, or the predicted numbers of a regression."""
    logits_BK = logits_BK.double()
    if kind == "regression":
        return logits_BK
    return logits_BK.softmax(dim=1) if kind == "multiclass" else logits_BK.sigmoid()


def class_weights(task: TaskSpec, targets_NJ: np.ndarray) -> Tensor | None:
    """Return weights that make classes count alike, float32 (K,), between 1 / MAX_WEIGHT and MAX_WEIGHT.

    None where the task is not balanced, or has no classes. An output that never, or always, occurs weighs 1.
    """
    if not task.balanced or task.kind == "regression":
        return None
    if task.kind == "multiclass":
        counts_K = np.bincount(targets_NJ[:, 0].astype(np.int64), minlength=task.width)
        weights_K = np.where(counts_K > 0, len(targets_NJ) / np.maximum(counts_K, 1) / (counts_K > 0).sum(), 1.0)
    else:
        positives_K = targets_NJ.sum(axis=0)
        negatives_K = len(targets_NJ) - positives_K
        both_K = (positives_K > 0) & (negatives_K > 0)
        weights_K = np.where(both_K, negatives_K / np.maximum(positives_K, 1), 1.0)
    return torch.from_numpy(np.clip(weights_K, 1 / MAX_WEIGHT, MAX_WEIGHT).astype(np.float32))
