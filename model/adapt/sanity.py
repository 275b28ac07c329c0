"""The first question when fine-tuning does not learn: can it learn one batch by heart?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.errors import TrainingError


@dataclass(frozen=True, slots=True)
class OverfitCheck:
    """Loss on one batch before and after ``steps`` steps on that batch."""

    first: float
    last: float
    steps: int

    def sentence(self) -> str:
        """Return the result for people."""
        return f"one batch learnt by heart: loss {self.first:.3f} → {self.last:.3f} in {self.steps} steps"


def overfit_one_batch(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, steps: int, *, must_fall_to: float = 0.5
) -> OverfitCheck:
    """Train on one fixed batch and require the loss to fall to ``must_fall_to`` of its first value.

    Args:
        loss: recomputes the loss of the fixed batch.
        optimizer: over the parameters that ``loss`` depends on; they are changed.
        steps: optimiser steps, at least 1.
        must_fall_to: share of the first loss that must be reached.

    Raises:
        TrainingError: it does not fall, which no amount of data or epochs would cure.
    """
    first = last = math.nan
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        if step == 0:
            first = float(value.detach())
        value.backward()
        optimizer.step()
    with torch.no_grad():
        last = float(loss())
    if not last <= first * must_fall_to:
        raise TrainingError(
            f"one batch cannot be learnt by heart (loss {first:.3f} → {last:.3f} in {steps} steps): "
            "raise the learning rate or the steps of the check; if that does not help, labels or weights are wrong"
        )
    return OverfitCheck(first, last, steps)
