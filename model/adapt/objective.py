"""Loss, probabilities, class weights, start and scale of each kind of task."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from model.adapt.task import Kind, Target, TaskSpec

MAX_WEIGHT = 20.0
"""A class that is rarer than this against the others weighs no more: a handful of samples must not carry the loss."""


class TargetScale(NamedTuple):
    """Mean and standard deviation of a regression's training targets.

    It is learnt in standard deviations from the mean, so that the same rates fit whatever unit the labels have; what is
    stored and measured is in that unit. Other kinds have the default, which changes nothing.
    """

    mean: float = 0.0
    std: float = 1.0

    def learnt(self, targets_NJ: Sequence[Target] | np.ndarray) -> Tensor:
        """Return targets as they are learnt, float32 (N, J)."""
        return torch.from_numpy((np.asarray(targets_NJ, np.float64) - self.mean) / self.std).float()

    def to_label(self, head: nn.Linear) -> nn.Linear:
        """Return the head that gives in the label's unit what ``head`` gives as it is learnt."""
        return _rescaled(head, self.std, self.mean)

    def from_label(self, head: nn.Linear) -> nn.Linear:
        """Return the head of which ``to_label`` makes ``head``."""
        return _rescaled(head, 1 / self.std, -self.mean / self.std)


def task_loss(kind: Kind, logits_BK: Tensor, targets_BJ: Tensor, weights_K: Tensor | None = None) -> Tensor:
    """Return the mean loss of a batch, 0-d fp32: cross-entropy of each kind, squared error for regression.

    The mean over parts of a batch, each with its share of samples, is that of the whole.

    Args:
        kind: of the task.
        logits_BK: any float dtype.
        targets_BJ: as ``model.adapt.task.Target``; of a regression, as they are learnt (``TargetScale``).
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


def target_scale(task: TaskSpec, targets_NJ: np.ndarray) -> TargetScale:
    """Return the scale of the training targets, rounded alike on every machine: it is part of a job's identity."""
    if task.kind != "regression":
        return TargetScale()
    values = targets_NJ[:, 0].tolist()
    return TargetScale(statistics.fmean(values), statistics.pstdev(values) or 1.0)


def start_bias(task: TaskSpec, targets_NJ: np.ndarray, weights_K: Tensor | None) -> Tensor:
    """Return the bias of a head whose weights are zero that has the least training loss, float32 (K,).

    Log-odds (binary, multilabel) or log-frequencies (multiclass) of the weighted classes; one that never, or always,
    occurs counts half a sample. 0 for a regression, the mean of what it learns.
    """
    if task.kind == "regression":
        return torch.zeros(task.width)
    total = len(targets_NJ)
    if task.kind == "multiclass":
        counts_K = np.bincount(targets_NJ[:, 0].astype(np.int64), minlength=task.width)
        odds_K = np.maximum(counts_K, 0.5) / total
    else:
        positives_K = np.clip(targets_NJ.sum(axis=0, dtype=np.float64), 0.5, total - 0.5)
        odds_K = positives_K / (total - positives_K)
    bias_K = torch.from_numpy(np.log(odds_K)).float()
    return bias_K if weights_K is None else bias_K + weights_K.log()


def _rescaled(head: nn.Linear, factor: float, offset: float) -> nn.Linear:
    """Return factor · head + offset as one layer."""
    rescaled = nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        rescaled.weight.copy_(head.weight.double() * factor)
        rescaled.bias.copy_(head.bias.double() * factor + offset)
    return rescaled
