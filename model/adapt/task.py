"""What a task is: names of outputs, how labels become numbers, and nothing about how it is learnt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.rows import LabelValue

Kind = Literal["binary", "multiclass", "multilabel", "regression"]
Labels = Mapping[str, LabelValue]
Target = tuple[float, ...]
"""What is to be predicted: 0 or 1 (binary), the class's number (multiclass), one 0 or 1 an output (multilabel), or a
number (regression)."""


class LabelError(ValueError):
    """A label is there and cannot be meant: not finite, not a number, not one of the known words."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task.

    Args:
        name: as on the command line.
        kind: of prediction; it decides loss, measures and what a score is.
        outputs: their names: of the positive class (binary), the classes in order of their numbers (multiclass), the
            labels (multilabel), or the quantity (regression).
        read: turns a clip's labels into the target; None where they say nothing about the task. Raises LabelError.
        needs: which labels are meant, for people.
        negative: the other class of a binary task, in words.
        balanced: whether classes weigh alike in the loss however rare they are.
        class_values: numbers that classes stand for, where their distance means something (it gives the MAE).
    """

    name: str
    kind: Kind
    outputs: tuple[str, ...]
    read: Callable[[Labels], Target | None]
    needs: str
    negative: str = ""
    balanced: bool = True
    class_values: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Outputs of the head."""
        return len(self.outputs)

    def describe(self, target: Target) -> str:
        """Return a target in words, as score files have it."""
        if self.kind == "binary":
            return self.outputs[0] if target[0] else self.negative or f"not {self.outputs[0]}"
        if self.kind == "multiclass":
            return self.outputs[int(target[0])]
        if self.kind == "multilabel":
            return "".join(str(int(value)) for value in target)
        return f"{target[0]:g}"


def number(labels: Labels, name: str) -> float | None:
    """Return a label as a finite number; None where there is none.

    Raises:
        LabelError: it is no number, or not finite.
    """
    if name not in labels:
        return None
    try:
        value = float(labels[name])
    except ValueError:
        raise LabelError(f"label '{name}' is {str(labels[name])[:40]!r}, which is no number") from None
    if not math.isfinite(value):
        raise LabelError(f"label '{name}' is {value}, which says nothing")
    return value


def presence(labels: Labels, name: str) -> float | None:
    """Return a label that says whether something is there, 0 or 1; None where there is none.

    Raises:
        LabelError: it is neither.
    """
    value = number(labels, name)
    if value not in (None, 0.0, 1.0):
        raise LabelError(f"label '{name}' is {value:g}, and only 0 and 1 are known")
    return value
