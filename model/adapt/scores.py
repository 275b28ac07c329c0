"""From scores of windows to scores of subjects (a video, or a clip that bears its own label), and the files of both."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.adapt.files import replaced
from model.adapt.samples import Window
from model.adapt.task import Target, TaskSpec
from model.adapt.variants import Variants


@dataclass(frozen=True)
class WindowScores:
    """Scores float64 (N, K) that one model gives to all samples of some windows, window by window."""

    mode: str
    init: str
    windows: tuple[Window, ...]
    variants: Variants
    scores_NK: np.ndarray

    def samples(self) -> list[tuple[Window, int, Target]]:
        """Return (window, number of the variant, target) of each row."""
        return [(w, i, target) for w in self.windows for i, target in enumerate(self.variants.targets(w))]


@dataclass(frozen=True, slots=True)
class Subject:
    """What bears a label, and its score: the mean over its windows. A made fake is a subject beside its original."""

    name: str
    variant: int
    video: str
    path: str
    group: str
    manipulation: str
    windows: int
    target: Target
    scores_K: np.ndarray


def by_subject(scores: WindowScores) -> list[Subject]:
    """Return the subjects in the order in which they come first."""
    rows: dict[tuple[str, int], list[int]] = defaultdict(list)
    samples = scores.samples()
    for row, (window, variant, _) in enumerate(samples):
        rows[window.clip.subject, variant].append(row)
    return [
        Subject(
            name, variant, first.clip.video, first.clip.name, first.group, first.clip.manipulation, len(members),
            target, scores.scores_NK[members].mean(axis=0),
        )
        for (name, variant), members in rows.items()
        for first, _, target in (samples[members[0]],)
    ]  # fmt: skip


def write_windows(path: Path, task: TaskSpec, models: Iterable[WindowScores]) -> None:
    """Write ``scores.csv``: the scores over time that the scores of videos are means of."""
    head = ["mode", "init", "clip", "video", "name", "start_frame", "end_frame", *_columns(task)]
    lines = (
        [
            m.mode,
            m.init,
            w.clip.key,
            w.clip.video,
            w.clip.name,
            w.start_frame,
            w.end_frame,
            *_values(task, target, row_K),
        ]
        for m in models
        for (w, _, target), row_K in zip(m.samples(), m.scores_NK, strict=True)
    )
    _write(path, head, lines)


def write_subjects(path: Path, task: TaskSpec, models: Iterable[tuple[WindowScores, Sequence[Subject]]]) -> None:
    """Write ``video_scores.csv``: what is needed to compute every figure of the table again."""
    head = ["mode", "init", "subject", "video", "name", "group", "manipulation", "windows", *_columns(task)]
    lines = (
        [
            m.mode,
            m.init,
            s.name,
            s.video,
            s.path,
            s.group,
            s.manipulation,
            s.windows,
            *_values(task, s.target, s.scores_K),
        ]
        for m, subjects in models
        for s in subjects
    )
    _write(path, head, lines)


def _columns(task: TaskSpec) -> list[str]:
    labels = [f"label.{name}" for name in task.outputs] if task.kind == "multilabel" else ["label"]
    scores = ["score"] if task.width == 1 else [f"score.{name}" for name in task.outputs]
    return labels + scores


def _values(task: TaskSpec, target: Target, scores_K: np.ndarray) -> list[str]:
    labels = [str(int(v)) for v in target] if task.kind == "multilabel" else [task.describe(target)]
    return labels + [f"{score:.6f}" for score in scores_K.tolist()]


def _write(path: Path, head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with replaced(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(lines)
