"""Is a new encoder worse than the live one? Both were adapted alike and scored the same test videos."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from infra.config import BaseConfig
from infra.errors import DatasetError
from model.adapt.metrics import CONFIDENCE, auc
from model.adapt.report import SUBJECTS_FILE

FEWEST_GROUPS = 5
"""Videos below which resampling them tells nothing."""


class GateConfig(BaseConfig):
    """When a candidate is not worse than the live encoder."""

    kind: Literal["bootstrap", "tolerance"] = "bootstrap"
    """``bootstrap``: the lower end of the 95 % interval of the difference in AUC, over resampled videos, is at least
    ``-tolerance``; ``tolerance``: the difference itself is, for test sets of few videos."""
    mode: Literal["LP", "FT"] = "LP"
    """Which scores are compared: those of the linear probe, which sees the encoder as it is, or of fine-tuning."""
    tolerance: float = Field(default=0.02, ge=0, le=1)
    """Loss of AUC that is accepted; smaller asks for more test videos."""
    resamples: int = Field(default=2000, ge=100)
    """Resamples behind the interval."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``passed`` when the candidate is not worse, ``why`` in one sentence, and the numbers that it rests on."""

    passed: bool
    why: str
    scores: dict[str, float]


def compare(candidate: Path, live: Path, cfg: GateConfig, *, seed: int = 0) -> Verdict:
    """Compare two finished deepfake adaptations on the videos that both tested.

    Args:
        candidate: run folder of the candidate's adaptation.
        live: run folder of the live encoder's.
        cfg: the rule.
        seed: of the resampling.

    Raises:
        DatasetError: they did not test the same videos, or only one class.
    """
    new, old = _read(candidate, cfg.mode), _read(live, cfg.mode)
    if new.keys() != old.keys() or not new:
        raise DatasetError(f"{candidate} and {live} did not test the same videos; adapt both with the same settings")
    keys = sorted(new)
    labels_N = np.array([key.label == "fake" for key in keys])
    new_N, old_N = np.array([new[key] for key in keys]), np.array([old[key] for key in keys])
    before, after = auc(old_N, labels_N), auc(new_N, labels_N)
    if before is None or after is None:
        raise DatasetError(f"{candidate} tested one class only, which has no AUC; test on more videos")
    scores = {"candidate_auc": after, "live_auc": before}
    said = f"AUC {after:.3f} against {before:.3f} of the live encoder on {len(keys)} test videos"
    if cfg.kind == "tolerance":
        passed = after - before >= -cfg.tolerance
        return Verdict(passed, f"{said}; {_limit(passed, cfg)}", scores)
    owners = np.array([key.group for key in keys])
    groups = len(set(owners.tolist()))
    if groups < FEWEST_GROUPS:
        cure = "test on more, or set gate.kind=tolerance"
        return Verdict(False, f"{said}, of {groups} videos only, which a bootstrap cannot judge; {cure}", scores)
    low = _lower_end(new_N, old_N, labels_N, owners, cfg.resamples, seed)
    passed = low >= -cfg.tolerance
    bound = f"the difference is at least {low:+.3f} with 95 % confidence over {groups} videos"
    return Verdict(passed, f"{said}; {bound}, {_limit(passed, cfg)}", scores | {"difference_low": low})


def _limit(passed: bool, cfg: GateConfig) -> str:
    return f"{'within' if passed else 'beyond'} the tolerance of {cfg.tolerance:g}"


class _Tested(NamedTuple):
    """A row of the scores: who it shows, which video or clip it is, and what it is labelled."""

    group: str
    subject: str
    label: str


def _read(run: Path, mode: str) -> dict[_Tested, float]:
    """Scores of the pretrained encoder's test videos."""
    with (run / SUBJECTS_FILE).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["mode"], row["init"]) == (mode, "pretrained")]
    return {_Tested(row["group"], row["subject"], row["label"]): float(row["score"]) for row in rows}


def _lower_end(
    new_N: np.ndarray, old_N: np.ndarray, labels_N: np.ndarray, owners_N: np.ndarray, resamples: int, seed: int
) -> float:
    """Lower end of the percentile interval of the paired difference; whole videos are drawn with replacement."""
    members = [np.flatnonzero(owners_N == owner) for owner in np.unique(owners_N)]
    rng = np.random.default_rng(seed)
    differences: list[float] = []
    for _ in range(resamples * 10):  # bounded: a draw with one class only has no AUC and is drawn again
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        after, before = auc(new_N[drawn], labels_N[drawn]), auc(old_N[drawn], labels_N[drawn])
        if after is not None and before is not None:
            differences.append(after - before)
        if len(differences) == resamples:
            break
    return float(np.quantile(differences, (1 - CONFIDENCE) / 2))
