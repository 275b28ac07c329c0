"""Pretraining as one command: a real run on two ranks, resumed, refused, reported."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from infra.errors import ConfigError, DatasetError
from infra.metrics import read_metrics
from infra.run import CONFIG_FILE
from model.pretrain import PretrainReport, decide, pretrain
from model.train.checkpoint import list_checkpoints
from model.train.run_folder import hold_run, release_run
from model.weights import load_weights
from tests.support.pretraining import cut_off, face_dataset, small_config

STEPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return face_dataset(tmp_path_factory.mktemp("faces") / "dataset")


@pytest.fixture(scope="module")
def report(dataset, tmp_path_factory) -> PretrainReport:
    """One uninterrupted run; the tests below look at it."""
    return pretrain(small_config(dataset), tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_leaves_weights_of_both_networks_with_their_provenance(report):
    """Catches an encoder saved alone, and weights that forget whose videos they come from."""
    loaded = load_weights(report.run_dir)
    assert loaded.has_decoder
    assert loaded.config.image_size == 112
    assert any(name.startswith("discriminator.") for name in loaded.state)
    assert loaded.provenance["dataset_version"] == 1
    assert loaded.provenance["source_licence"] == "drawn for tests"
    assert (loaded.provenance["steps"], loaded.provenance["clips_seen"]) == (STEPS, 48)
    assert "parser: drawn by hand" in report.licences


def test_every_checkpoint_holds_the_weights_of_its_step(report):
    """Catches a run that can be looked at, or used, when it is over only."""
    first, *_, last = [load_weights(folder) for folder in list_checkpoints(report.run_dir)]
    final = load_weights(report.run_dir)
    assert (first.provenance["steps"], last.provenance["steps"]) == (5, STEPS)
    assert all(torch.equal(last.state[name], value) for name, value in final.state.items())
    assert not torch.equal(first.state["decoder.head.weight"], final.state["decoder.head.weight"])


def test_loss_falls_and_the_report_names_its_first_and_last_step(report):
    assert (report.first["step"], report.last["step"], report.steps) == (1, STEPS, STEPS)
    assert report.last["loss/reconstruction"] < 0.8 * report.first["loss/reconstruction"]
    assert report.scored_on == "val"
    assert report.score.clips == 2
    assert report.score.mean_face > 0


def test_every_step_is_measured_and_validation_is_measured_at_the_end(report):
    rows = read_metrics(report.run_dir)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    wanted = {
        "loss/reconstruction", "loss/adversarial_g", "loss/discriminator", "grad_norm/g", "grad_norm/d", "lr",
        "data/clips(1/s)", "time/step(s)", "time/data_wait(%)",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in rows)
    assert rows[-1]["loss/val_reconstruction"] == pytest.approx(report.score.mse, rel=1e-4)


def test_the_picture_has_three_rows_for_each_clip(report):
    picture = cv2.imread(str(report.picture))
    assert picture.shape == (2 * 3 * 112 + 8, 8 * 112, 3)


def test_the_run_folder_says_what_went_in_and_came_out(report, dataset):
    record = json.loads((report.run_dir / "run.json").read_text())
    assert record["outcome"] == "done"
    assert record["inputs"][0]["digest"] == "version 1"
    assert {output["name"] for output in record["outputs"]} == {"weights.safetensors", "reconstruction.png"}
    progress = json.loads((report.run_dir / "progress.json").read_text())
    assert (progress["label"], progress["unit"], progress["done"]) == ("pretrain", "step", STEPS)


def test_a_run_cut_off_and_resumed_gives_the_same_weights_bit_for_bit(report, dataset, tmp_path):
    """Catches a resume that loses moments, random state (the penalty draws), or the place in the data."""
    folder = cut_off(report.run_dir, tmp_path / "resumed")
    assert [path.name for path in list_checkpoints(folder)] == ["step-000005"]
    resumed = pretrain(small_config(dataset), folder)
    whole, again = load_file(report.weights), load_file(resumed.weights)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_finished_run_is_reported_and_not_trained_again(report, dataset):
    before = report.weights.stat().st_mtime_ns
    again = pretrain(small_config(dataset), report.run_dir)
    assert again.weights.stat().st_mtime_ns == before
    assert again.last == report.last


def test_a_run_folder_of_other_settings_is_refused_with_the_difference(report, dataset):
    with pytest.raises(ConfigError, match=r"seed: 0 then, 1 now"):
        pretrain(small_config(dataset, "seed=1"), report.run_dir)


def test_a_run_folder_in_use_is_refused(report, dataset, tmp_path):
    """Catches two launches that mix their checkpoints."""
    folder = cut_off(report.run_dir, tmp_path / "busy")
    lock = hold_run(folder)
    assert lock is not None
    with pytest.raises(ConfigError, match="in use"):
        pretrain(small_config(dataset), folder)
    release_run(lock)


def test_what_was_open_is_decided_once_and_kept_when_resuming(report, dataset):
    """Catches a resumed run that jumps to a newer dataset version or another number of ranks."""
    open_settings = small_config(dataset).model_copy(update={"world_size": None})
    kept = decide(open_settings, small_config(dataset, "data.version=1", "precision=fp32"))
    assert (kept.data.version, kept.world_size, kept.precision) == (1, 2, "fp32")
    fresh = decide(open_settings, None)
    assert (fresh.data.version, fresh.precision) == (1, "bf16" if torch.cuda.is_available() else "fp32")


@pytest.mark.parametrize(
    ("override", "error", "sentence"),
    [
        ("model.overrides.image_size=160", ConfigError, "take image_size"),
        ("model.name=marlin_vit_medium", ConfigError, "marlin_vit_small"),
        ("data.split=test", DatasetError, "'test'"),
        ("data.version=7", DatasetError, "version 7"),
        ("init_from=nowhere.safetensors", Exception, "nowhere"),
    ],
)
def test_what_cannot_work_is_refused_before_ranks_start(dataset, tmp_path, override, error, sentence):
    """Catches a traceback from two ranks in place of one sentence."""
    folder = tmp_path / "refused"
    with pytest.raises(error, match=sentence):
        pretrain(small_config(dataset, override), folder)
    assert not folder.exists()


def test_pictures_do_not_change_between_two_drawings(report, dataset, tmp_path):
    """Catches validation windows or masks drawn anew each time: curves over time would be noise."""
    folder = tmp_path / "copy"
    shutil.copytree(report.run_dir, folder)
    first = cv2.imread(str(report.picture))
    again = pretrain(small_config(dataset), folder)
    assert (np.asarray(cv2.imread(str(again.picture))) == np.asarray(first)).all()
    assert (folder / CONFIG_FILE).exists()
