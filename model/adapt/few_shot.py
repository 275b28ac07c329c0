"""Few-shot subsets: which training subjects keep their labels. Pure, stratified, and nested for one seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from model.adapt.task import Kind, Target


def few_shot_subset(targets: Mapping[str, Target], kind: Kind, fraction: float, seed: int) -> set[str]:
    """Return the subjects that keep their labels.

    Of every class (or label of a multilabel task, the rarest first) that occurs, ``ceil(fraction · its count)``
    subjects are kept, so that none vanishes; then others until ``ceil(fraction · all)`` are. Subjects are taken in
    an order that depends on their names and the seed alone, so a smaller fraction keeps a part of what a larger one
    keeps (exactly so for classes; for overlapping labels the fill may differ).

    Args:
        targets: subject (a video, mostly) → its target; a share of videos is what a person would label.
        kind: of the task; the values of a regression are not strata.
        fraction: share of the labels, 0 < fraction ≤ 1.
        seed: of the order.
    """
    order = sorted(targets, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    kept: set[str] = set()
    strata = [[name for name in order if key in _strata(targets[name], kind)] for key in _keys(targets, kind)]
    for members in sorted(strata, key=len):
        missing = math.ceil(fraction * len(members)) - sum(name in kept for name in members)
        free = [name for name in members if name not in kept]
        kept.update(free[: max(missing, 0)])
    rest = math.ceil(fraction * len(order)) - len(kept)
    kept.update([name for name in order if name not in kept][: max(rest, 0)])
    return kept


def _strata(target: Target, kind: Kind) -> set[int]:
    """The strata that a target belongs to: its class, or each label that it bears."""
    if kind == "regression":
        return set()
    return {k for k, value in enumerate(target) if value} if kind == "multilabel" else {int(target[0])}


def _keys(targets: Mapping[str, Target], kind: Kind) -> list[int]:
    return sorted({key for target in targets.values() for key in _strata(target, kind)})
