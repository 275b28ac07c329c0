"""The gate: the same test clips, whole videos resampled, and the sentence that stays in the registry."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from infra.errors import DatasetError
from model.adapt.report import SUBJECTS_FILE
from model.gate import GateConfig, compare


def write_run(
    folder: Path, separation: float, *, videos: int = 12, seed: int = 0, skip: int = 0, copies: int = 1
) -> Path:
    """Scores of an encoder that tells real from fake ``separation`` standard deviations apart, in equal ``copies``."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    with (folder / SUBJECTS_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mode", "init", "subject", "group", "label", "score"])
        for mode, init in (("LP", "pretrained"), ("LP", "random"), ("FT", "pretrained")):
            for video in range(videos - skip):
                for clip in range(4):
                    for label in ("real", "fake"):
                        score = rng.normal() + separation * (label == "fake") * (mode == "LP" and init == "pretrained")
                        for copy in range(copies):
                            name = f"v{video}-{clip}-{copy}"
                            writer.writerow([mode, init, name, f"v{video}", label, f"{score:.6f}"])
    return folder


@pytest.mark.parametrize("kind", ["bootstrap", "tolerance"])
def test_better_passes_and_worse_does_not(tmp_path, kind):
    """Catches a gate with its sides swapped, or one that reads the rows of the random encoder or of fine-tuning."""
    good, bad = write_run(tmp_path / "good", 3.0), write_run(tmp_path / "bad", 0.5)
    cfg = GateConfig(kind=kind)
    up, down = compare(good, bad, cfg), compare(bad, good, cfg)
    assert (up.passed, down.passed) == (True, False)
    assert up.scores["candidate_auc"] == down.scores["live_auc"] > 0.9
    assert "within the tolerance" in up.why
    assert "beyond the tolerance" in down.why


def test_the_same_scores_pass_and_chance_alone_does_not(tmp_path):
    """Catches an unpaired bootstrap, in which an encoder would be refused against itself."""
    one = write_run(tmp_path / "one", 1.0)
    same = compare(one, one, GateConfig())
    assert (same.passed, same.scores["difference_low"]) == (True, 0)
    assert compare(one, one, GateConfig(tolerance=0)).passed
    unsure = compare(write_run(tmp_path / "other", 1.0, seed=1), one, GateConfig())
    assert unsure.scores["difference_low"] < unsure.scores["candidate_auc"] - unsure.scores["live_auc"]


def test_few_videos_are_not_judged_by_a_bootstrap(tmp_path):
    few = write_run(tmp_path / "few", 3.0, videos=2)
    verdict = compare(few, few, GateConfig())
    assert not verdict.passed
    assert "gate.kind=tolerance" in verdict.why
    assert compare(few, few, GateConfig(kind="tolerance")).passed


def test_five_videos_are_enough_for_a_bootstrap(tmp_path):
    """Catches a limit that is off by one."""
    five = write_run(tmp_path / "five", 3.0, videos=5)
    assert compare(five, five, GateConfig(resamples=100)).passed


def test_copies_of_clips_do_not_narrow_the_interval(tmp_path):
    """Catches a bootstrap over clips: those of one video are alike, and many of them no more evidence than a few."""
    lows = []
    for copies in (1, 10):
        new, old = (write_run(tmp_path / f"{seed}x{copies}", 1.0, seed=seed, copies=copies) for seed in (1, 0))
        lows.append(compare(new, old, GateConfig(resamples=200)).scores["difference_low"])
    assert lows[0] == pytest.approx(lows[1])


def test_the_lower_end_is_that_of_95_percent(tmp_path):
    """Catches the lower end of 90 %: one draw in 24 has 9 or more of the 5 videos in 20 that the candidate mistakes."""
    rows = {"live": [], "candidate": []}
    for video in range(20):
        key = ["LP", "pretrained", f"v{video}", f"v{video}"]
        for name, mistaken in (("live", False), ("candidate", video < 5)):
            rows[name] += [[*key, "real", 0], [*key, "fake", -1 if mistaken else 1]]
    for name, its_rows in rows.items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / SUBJECTS_FILE).open("w", newline="") as file:
            csv.writer(file).writerows([["mode", "init", "subject", "group", "label", "score"], *its_rows])
    verdict = compare(tmp_path / "candidate", tmp_path / "live", GateConfig())
    assert verdict.scores["difference_low"] == pytest.approx(-9 / 20)


def test_other_test_videos_are_refused(tmp_path):
    """Catches a comparison of different nights."""
    with pytest.raises(DatasetError, match="did not test the same videos"):
        compare(write_run(tmp_path / "a", 1.0), write_run(tmp_path / "b", 1.0, skip=1), GateConfig())
