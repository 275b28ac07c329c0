"""What adaptation hands over: rows of the table, per-clip scores, and the sentences that say how far they reach."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RESULT_FILE, SCORES_FILE, PAIRS_FILE = "result.json", "scores.csv", "pairs.png"
HEAD_FILE, ADAPTED_FILE = "head.safetensors", "adapted.safetensors"

Mode = Literal["LP", "FT"]
Init = Literal["pretrained", "random"]


@dataclass(frozen=True, slots=True)
class AdaptRow:
    """One line of the table.

    mode: linear probe or fine-tuning; init: where the encoder's weights come from. accuracy and auc are over single
    clips; video_accuracy and video_auc over the mean score of each video's real and fake clips. auc_low, auc_high:
    95 % interval of ``auc`` over resampled videos or people; None where there is one only. Counts are of the test
    side except clips_train and clips_val; real and fake count one each. best_epoch: the epoch kept; -1 in FT means
    that no epoch was better than the probe it started from.
    """

    mode: Mode
    init: Init
    accuracy: float
    auc: float
    auc_low: float | None
    auc_high: float | None
    video_accuracy: float
    video_auc: float
    clips_train: int
    clips_val: int
    clips_test: int
    videos_test: int
    groups_test: int
    people_test: int | None
    best_epoch: int
    train_loss: float
    val_loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Score:
    """One tested clip: probability of fake, its label, and where it comes from (frames of the source video)."""

    mode: Mode
    init: Init
    clip: str
    video: str
    name: str
    start_frame: int
    end_frame: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """The outcome of one run.

    weights_sha256: digest of the pretrained weights' file. people: None where the dataset does not know. notes:
    sentences that must stand wherever the numbers stand.
    """

    task: str
    run_dir: Path
    dataset: str
    version: int
    weights_sha256: str
    fakes: str
    split: str
    videos: int
    people: int | None
    rows: tuple[AdaptRow, ...]
    notes: tuple[str, ...]
    seconds: float

    def result(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        tree = asdict(self)
        tree["run_dir"] = self.run_dir.name
        tree["people"] = "unknown" if self.people is None else self.people
        for row in tree["rows"]:
            row["people_test"] = "unknown" if row["people_test"] is None else row["people_test"]
        return tree


def write_report(report: AdaptReport, scores: Sequence[Score]) -> None:
    """Write ``scores.csv``, then ``result.json`` (last: with it the run is complete)."""
    with _replaced(report.run_dir / SCORES_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Score.__dataclass_fields__)
        writer.writerows([f"{v:.6f}" if isinstance(v, float) else v for v in asdict(s).values()] for s in scores)
    with _replaced(report.run_dir / RESULT_FILE) as path:
        path.write_text(json.dumps(report.result(), indent=1, ensure_ascii=False), encoding="utf-8")


class _replaced:
    """Context manager: a temporary path that takes the place of ``target`` when the block succeeds."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._temporary.replace(self._target)
        else:
            self._temporary.unlink(missing_ok=True)
