"""What adaptation hands over: rows of the table, figures behind them, and the sentences that say how far they reach."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from infra.errors import ConfigError
from model.adapt.files import replaced
from model.adapt.metrics import Measure, ReliabilityBin

RESULT_FILE, SCORES_FILE, SUBJECTS_FILE, PAIRS_FILE = "result.json", "scores.csv", "video_scores.csv", "pairs.png"
HEAD_FILE, ADAPTED_FILE = "head.safetensors", "adapted.safetensors"
UNKNOWN = "unknown"
"""Stands in ``result.json`` for a number of people that the dataset does not tell."""

Mode = Literal["LP", "FT"]


@dataclass(frozen=True, slots=True)
class AdaptRow:
    """One line of the table.

    mode: linear probe or fine-tuning; init: where the encoder's weights come from, ``pretrained`` or ``random``.
    measures: of subjects' scores (``model.adapt.scores``), with 95 % intervals over people or videos. window_measures:
    the same figures of single windows. per_output: of each label of a multilabel task. by_manipulation: each deepfake
    method's fakes against all real videos. Counts are of samples; real and fake count one each. best_epoch: the epoch
    kept; -1 in FT means that no epoch was better than the probe it started from. train_loss, val_loss: of that epoch; a
    regression's in squared standard deviations of its training targets.
    """

    mode: Mode
    init: str
    measures: Mapping[str, Measure]
    window_measures: Mapping[str, float]
    per_output: Mapping[str, Mapping[str, float]]
    by_manipulation: Mapping[str, Mapping[str, float]]
    reliability: tuple[ReliabilityBin, ...]
    clips_train: int
    clips_val: int
    clips_test: int
    subjects_test: int
    videos_test: int
    groups_test: int
    people_test: int | None
    best_epoch: int
    train_loss: float
    val_loss: float
    seconds: float

    def figure(self, name: str) -> float:
        """Return a figure; not a number where the task has none of that name."""
        return self.measures[name].value if name in self.measures else math.nan

    @property
    def accuracy(self) -> float:
        """Share of right answers, [0, 1]."""
        return self.figure("accuracy")

    @property
    def auc(self) -> float:
        """Area under the ROC curve, [0, 1]."""
        return self.figure("auc")

    @property
    def auc_low(self) -> float | None:
        """Lower end of the AUC's interval."""
        return self.measures["auc"].low if "auc" in self.measures else None

    @property
    def auc_high(self) -> float | None:
        """Upper end of the AUC's interval."""
        return self.measures["auc"].high if "auc" in self.measures else None


@dataclass(frozen=True, slots=True)
class FewShotRow:
    """One share of the training labels: mean and standard deviation of each figure over ``seeds`` subsets.

    subjects and clips_train: of a subset, the mean over them, since they need not be equally large. best_epoch: the
    latest that any of them kept.
    """

    mode: Mode
    init: str
    fraction: float
    seeds: int
    subjects: float
    clips_train: float
    best_epoch: int
    measures: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """The outcome of one run.

    encoder: its name. weights_sha256: digest of the pretrained weights' file, empty without one. fakes: ``labels``, or
    how samples were made. people: None where the dataset does not know. notes: sentences that must stand wherever the
    numbers stand. licences: of everything that went in.
    """

    task: str
    kind: str
    outputs: tuple[str, ...]
    run_dir: Path
    dataset: str
    version: int
    encoder: str
    weights_sha256: str
    config_digest: str
    fakes: str
    split: str
    videos: int
    people: int | None
    rows: tuple[AdaptRow, ...]
    few_shot: tuple[FewShotRow, ...]
    notes: tuple[str, ...]
    licences: tuple[str, ...]
    seconds: float
    overfit: str = ""

    def result(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        tree = asdict(self)
        tree["run_dir"] = self.run_dir.name
        tree["people"] = UNKNOWN if self.people is None else self.people
        for row, own in zip(tree["rows"], self.rows, strict=True):
            row["measures"] = {name: m._asdict() for name, m in own.measures.items()}
            row["reliability"] = [b._asdict() for b in own.reliability]
            row["people_test"] = UNKNOWN if own.people_test is None else own.people_test
        return tree

    def table(self) -> list[str]:
        """Return the rows as lines of text for a terminal, headline figures first."""
        names = list(self.rows[0].measures)[:4]
        lines = ["".join([f"{'mode':<5}{'encoder':<12}", *(f"{name:>30}" for name in names)])]
        for row in self.rows:
            cells = [f"{_shown(row.measures.get(name)):>30}" for name in names]
            lines.append("".join([f"{row.mode:<5}{row.init:<12}", *cells]))
        for few in self.few_shot:
            cells = [
                f"{few.measures[name][0]:.3f} ± {few.measures[name][1]:.3f}" if name in few.measures else "–"
                for name in names
            ]
            lines.append("".join([f"{few.mode:<5}{few.fraction:<12.0%}", *(f"{cell:>30}" for cell in cells)]))
        return lines


def write_result(report: AdaptReport) -> None:
    """Write ``result.json``, the last of a run's files: with it the run is complete."""
    with replaced(report.run_dir / RESULT_FILE) as path:
        path.write_text(json.dumps(report.result(), indent=1, ensure_ascii=False), encoding="utf-8")


def read_result(run_dir: Path) -> AdaptReport:
    """Return what ``write_result`` wrote.

    Raises:
        ConfigError: it is damaged, or another release's.
    """
    path = run_dir / RESULT_FILE
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        for row, key in [(tree, "people"), *((row, "people_test") for row in tree["rows"])]:
            row[key] = None if row[key] == UNKNOWN else row[key]
        return _REPORT.validate_python({**tree, "run_dir": run_dir})
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be read as a result of this release; take a new run folder") from error


_REPORT = TypeAdapter(AdaptReport)


def _shown(measure: Measure | None) -> str:
    if measure is None:
        return "–"
    interval = "" if measure.low is None else f" ({measure.low:.3f} to {measure.high:.3f})"
    return f"{measure.value:.3f}{interval}"
