"""Measures of each kind of task, with intervals that respect which samples belong together, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from infra.errors import DatasetError
from model.adapt.task import TaskSpec

CONFIDENCE = 0.95
THRESHOLD = 0.5
BINS = 10
"""Bins of the reliability table, of equal width in probability."""


class Measure(NamedTuple):
    """A figure and its 95 % interval; None where it is not defined (one group only, one class only)."""

    value: float
    low: float | None = None
    high: float | None = None


class ReliabilityBin(NamedTuple):
    """Predictions whose probability fell in one bin: how many, their mean, and how often they came true."""

    samples: int
    predicted: float
    observed: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one set of scores.

    measures: figures over all outputs (``measure_names``). per_output: accuracy and AUC of each output of a multilabel
    task. reliability: bins over the probability of every output (multilabel, binary) or of the chosen class.
    """

    measures: dict[str, Measure]
    per_output: dict[str, dict[str, float]]
    reliability: tuple[ReliabilityBin, ...]
    samples: int
    groups: int


def measure(
    task: TaskSpec,
    scores_NK: np.ndarray,
    targets_NJ: np.ndarray,
    groups: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Measured:
    """Measure scores against targets.

    Args:
        task: decides what is measured.
        scores_NK: probabilities of the outputs (rows sum to 1 for multiclass), or predicted numbers (regression).
        targets_NJ: as ``model.adapt.task.Target``.
        groups: who or what each row shows; intervals come from resampling whole groups with replacement, since windows
            of one video are near copies and an interval over rows would be far too narrow.
        resamples: of the bootstrap. Those that leave a figure undefined do not count for it.
        seed: of the resampling.

    Raises:
        DatasetError: lengths differ, a score is not finite, or only one class is there.
    """
    if not len(scores_NK) == len(targets_NJ) == len(groups):
        raise DatasetError(f"{len(scores_NK)} scores, {len(targets_NJ)} labels and {len(groups)} groups do not fit")
    if not np.isfinite(scores_NK).all():
        raise DatasetError("a score is not a finite number; training diverged: lower the learning rate")
    if task.kind != "regression" and all(len(np.unique(column)) < 2 for column in targets_NJ.T):
        raise DatasetError(
            f"all {len(targets_NJ)} test labels of task {task.name} are alike, so nothing can be measured; test on "
            "more videos, or split otherwise"
        )
    point = figures(task, scores_NK, targets_NJ)
    ranges = _intervals(task, scores_NK, targets_NJ, groups, resamples, seed)
    reliability = () if task.kind == "regression" else reliability_bins(task, scores_NK, targets_NJ)
    measures = {name: Measure(value, *ranges.get(name, (None, None))) for name, value in point.items()}
    if reliability:
        measures["ece"] = Measure(calibration_error(reliability))
    return Measured(
        measures=measures,
        per_output=_per_output(task, scores_NK, targets_NJ),
        reliability=reliability,
        samples=len(targets_NJ),
        groups=len(set(groups)),
    )


def figures(task: TaskSpec, scores_NK: np.ndarray, targets_NJ: np.ndarray) -> dict[str, float]:
    """Return the figures of a task that are defined on these rows, without intervals.

    binary: accuracy at 0.5, AUC, balanced accuracy, weighted F1. multiclass: accuracy, balanced accuracy, weighted F1,
    macro AUC, and MAE where classes stand for numbers. multilabel: accuracy and AUC micro (all labels flattened, the
    paper's) and macro, weighted F1 (mean over labels). regression: MAE, RMSE, correlation.
    """
    if task.kind == "regression":
        return _regression(scores_NK[:, 0], targets_NJ[:, 0])
    if task.kind == "multilabel":
        return _multilabel(scores_NK, targets_NJ)
    truth_N = targets_NJ[:, 0].astype(np.int64)
    if task.kind == "binary":
        chosen_N = (scores_NK[:, 0] > THRESHOLD).astype(np.int64)
        found = _classes(chosen_N, truth_N)
        area = auc(scores_NK[:, 0], truth_N)
        return found if area is None else {"accuracy": found["accuracy"], "auc": area, **found}
    chosen_N = scores_NK.argmax(axis=1)
    found = _classes(chosen_N, truth_N)
    areas = [auc(scores_NK[:, k], truth_N == k) for k in range(scores_NK.shape[1])]
    if defined := [area for area in areas if area is not None]:
        found["auc"] = float(np.mean(defined))
    if task.class_values:
        values_K = np.asarray(task.class_values)
        found["mae"] = float(np.abs(values_K[chosen_N] - values_K[truth_N]).mean())
    return found


def auc(scores_N: np.ndarray, truth_N: np.ndarray) -> float | None:
    """Return the share of (true, false) pairs in the right order, ties counting half (Mann and Whitney's U).

    None when only one class is there. Written out, since the ready-made ones cost seconds of imports for four lines.
    """
    truth_N = truth_N.astype(bool)
    positives = int(truth_N.sum())
    if positives in (0, len(truth_N)):
        return None
    _, place_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(counts) - (counts - 1) / 2)[place_N]
    u = rank_N[truth_N].sum() - positives * (positives + 1) / 2
    return float(u / (positives * (len(truth_N) - positives)))


def reliability_bins(task: TaskSpec, scores_NK: np.ndarray, targets_NJ: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Return the reliability table: for multiclass of the chosen class, else of every output's probability."""
    if task.kind == "multiclass":
        said, came = scores_NK.max(axis=1), scores_NK.argmax(axis=1) == targets_NJ[:, 0]
    else:
        said, came = scores_NK.ravel(), targets_NJ.ravel() == 1
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    bins = [(said[place == b], came[place == b]) for b in range(BINS)]
    return tuple(
        ReliabilityBin(len(p), float(p.mean()), float(c.mean())) if len(p) else ReliabilityBin(0, 0.0, 0.0)
        for p, c in bins
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the expected calibration error (Guo et al., 2017): mean distance of predicted and observed, by count."""
    total = sum(b.samples for b in bins)
    return sum(b.samples * abs(b.predicted - b.observed) for b in bins) / total


def _classes(chosen_N: np.ndarray, truth_N: np.ndarray) -> dict[str, float]:
    recalls = [float((chosen_N[truth_N == k] == k).mean()) for k in np.unique(truth_N)]
    return {
        "accuracy": float((chosen_N == truth_N).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "weighted_f1": _weighted_f1(chosen_N, truth_N),
    }


def _weighted_f1(chosen_N: np.ndarray, truth_N: np.ndarray) -> float:
    """F1 of each class that occurs, weighted by how often it does."""
    total = 0.0
    for k, support in zip(*np.unique(truth_N, return_counts=True), strict=True):
        hits = int(((chosen_N == k) & (truth_N == k)).sum())
        total += support * 2 * hits / (int((chosen_N == k).sum()) + support)
    return float(total / len(truth_N))


def _multilabel(scores_NK: np.ndarray, targets_NK: np.ndarray) -> dict[str, float]:
    chosen_NK = scores_NK > THRESHOLD
    areas = [area for k in range(scores_NK.shape[1]) if (area := auc(scores_NK[:, k], targets_NK[:, k])) is not None]
    micro = auc(scores_NK.ravel(), targets_NK.ravel())
    found = {
        "accuracy": float((chosen_NK == targets_NK).mean()),
        **({} if micro is None else {"auc": micro}),
        "weighted_f1": float(
            np.mean(
                [
                    _weighted_f1(chosen_NK[:, k].astype(int), targets_NK[:, k].astype(int))
                    for k in range(chosen_NK.shape[1])
                ]
            )
        ),
    }
    if areas:
        found["macro_auc"] = float(np.mean(areas))
    return found


def _regression(predicted_N: np.ndarray, truth_N: np.ndarray) -> dict[str, float]:
    off_N = predicted_N - truth_N
    found = {"mae": float(np.abs(off_N).mean()), "rmse": float(np.sqrt((off_N**2).mean()))}
    if min(predicted_N.std(), truth_N.std()) > 0:
        found["correlation"] = float(np.corrcoef(predicted_N, truth_N)[0, 1])
    return found


def _per_output(task: TaskSpec, scores_NK: np.ndarray, targets_NK: np.ndarray) -> dict[str, dict[str, float]]:
    if task.kind != "multilabel":
        return {}
    rows: dict[str, dict[str, float]] = {}
    for k, name in enumerate(task.outputs):
        row = {
            "accuracy": float(((scores_NK[:, k] > THRESHOLD) == targets_NK[:, k]).mean()),
            "positives": float(targets_NK[:, k].mean()),
        }
        area = auc(scores_NK[:, k], targets_NK[:, k])
        rows[name] = row if area is None else {**row, "auc": area}
    return rows


def _intervals(
    task: TaskSpec, scores_NK: np.ndarray, targets_NJ: np.ndarray, groups: Sequence[str], resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    names = sorted(set(groups))
    if len(names) < 2:
        return {}
    owners = np.asarray(groups)
    members = [np.flatnonzero(owners == name) for name in names]
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {}
    for _ in range(resamples):
        chosen = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        for name, value in figures(task, scores_NK[chosen], targets_NJ[chosen]).items():
            values.setdefault(name, []).append(value)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    return {name: tuple(map(float, np.quantile(found, tails))) for name, found in values.items()}  # type: ignore[misc]
