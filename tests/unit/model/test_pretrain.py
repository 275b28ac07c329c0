"""Pretraining as one command: a real run on two ranks, resumed, refused, reported."""

import json
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from infra.errors import ConfigError, CorruptShardError, DatasetError, TrainingError
from infra.metrics import read_metrics
from infra.run import CONFIG_FILE, RUN_FILE, RunContext
from model.pretrain import PretrainReport, decide, pretrain
from model.train.checkpoint_folder import BEST, list_checkpoints, read_state
from model.train.run_folder import hold_run, release_run
from model.train.start import NODE_NUMBERS, is_follower, join
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
    assert loaded.provenance["source_licences"] == ["drawn for tests"]
    assert (loaded.provenance["steps"], loaded.provenance["clips_seen"]) == (STEPS, 48)
    assert "parser: drawn by hand" in report.licences
    assert report.dataset_licences == report.licences, "it began at random"


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
        "data/clips(1/s)", "time/step(s)", "time/data_wait(%)", "speed/achieved(TFLOP/s)", "speed/mfu(%)",
        "memory/peak(GiB)",
    }  # fmt: skip
    assert all(wanted <= row.keys() for row in rows)
    assert all(0 < row["speed/mfu(%)"] < 150 for row in rows)
    assert rows[-1]["loss/val_reconstruction"] == pytest.approx(report.score.mse, rel=1e-4)


def test_every_checkpoint_was_validated_and_the_best_is_named(report):
    """Catches a best that is chosen by a loss of another step."""
    measured = {row["step"]: row for row in read_metrics(report.run_dir) if "loss/val_reconstruction" in row}
    folders = list_checkpoints(report.run_dir)
    assert list(measured) == [5, 10, STEPS]
    assert all(row["probe/spread"] > 0 and row["probe/effective_rank"] >= 1 for row in measured.values())
    losses = {folder.name: read_state(folder).val_loss for folder in folders}
    assert list(losses.values()) == [row["loss/val_reconstruction"] for row in measured.values()]
    assert (folders[0].parent / BEST).read_text() == min(losses, key=lambda name: losses[name])


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
    """Catches a resume that loses moments, random state (the penalty draws), or the place in the data.

    What is saved between two validations, by the clock, changes nothing.
    """
    folder = cut_off(report.run_dir, tmp_path / "resumed")
    assert [path.name for path in list_checkpoints(folder)] == ["step-000005"]
    resumed = pretrain(small_config(dataset, "checkpoint.every_minutes=1e-4"), folder)
    kept = [path.name for path in list_checkpoints(folder)]
    assert kept[-3:] == [f"step-{step:06d}" for step in (STEPS - 2, STEPS - 1, STEPS)]
    whole, again = load_file(report.weights), load_file(resumed.weights)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_goes_on_with_another_number_of_ranks_where_it_was(report, dataset, tmp_path):
    """Catches weights that move in conversion, and clips or masks that follow ranks: the first loss tells all of them.

    Later ones differ by the noise of the gradient penalty, which ranks draw.
    """
    folder = cut_off(report.run_dir, tmp_path / "resized")
    pretrain(small_config(dataset, "world_size=1", "micro_batch=2"), folder)
    then, now = (
        {row["step"]: row["loss/reconstruction"] for row in read_metrics(run)} for run in (report.run_dir, folder)
    )
    assert now[6] == pytest.approx(then[6], rel=1e-5)
    assert now[STEPS] == pytest.approx(then[STEPS], rel=0.05)
    assert [read_state(path).world_size for path in list_checkpoints(folder)] == [2, 1, 1]


def test_a_finished_run_is_reported_and_not_trained_again(report, dataset):
    before = report.weights.stat().st_mtime_ns
    again = pretrain(small_config(dataset), report.run_dir)
    assert again.weights.stat().st_mtime_ns == before
    assert again.last == report.last


def test_a_run_folder_of_other_settings_is_refused_with_the_difference(report, dataset):
    with pytest.raises(ConfigError, match=r"seed: 0 then, 1 now"):
        pretrain(small_config(dataset, "seed=1"), report.run_dir)


def test_a_run_folder_in_use_is_refused_and_left_as_it_is(dataset, tmp_path):
    """Catches two launches that mix their checkpoints, and settings of the second in what the first's ranks re-read."""
    folder = RunContext.create("pretrain", decide(small_config(dataset), None), folder=tmp_path / "busy").dir
    before = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, RUN_FILE)}
    lock = hold_run(folder)
    assert lock is not None
    with pytest.raises(ConfigError, match="in use"):
        pretrain(small_config(dataset, "micro_batch=1"), folder)
    release_run(lock)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_second_command_is_refused_before_the_first_one_s_ranks_are_up(dataset, tmp_path, monkeypatch, caplog):
    """Catches a folder that nobody holds for the seconds in which ranks start, and settings replaced in it."""
    caplog.set_level(logging.INFO)
    seen = {}

    def meanwhile(cfg, run_dir):
        before = (run_dir / CONFIG_FILE).read_bytes()
        with pytest.raises(ConfigError, match="in use"):
            pretrain(small_config(dataset, "micro_batch=1"), run_dir)
        seen["kept"] = (run_dir / CONFIG_FILE).read_bytes() == before
        raise TrainingError("enough")

    monkeypatch.setattr("model.pretrain.start_ranks", meanwhile)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match="enough"):
        pretrain(small_config(dataset))
    assert seen == {"kept": True}
    assert f"run folder {next(Path('runs').iterdir())}" in caplog.text  # or nobody knows what --run goes on with


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
        ("model.overrides.frames=32", ConfigError, "take model.overrides.frames 16"),
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


def test_a_damaged_shard_is_one_sentence_before_ranks_start(dataset, tmp_path):
    """Catches a run that dies of it after days, at the clip that it holds."""
    shutil.copytree(dataset, tmp_path / "dataset")
    shard = next((tmp_path / "dataset" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(CorruptShardError, match="restore it from a copy"):
        pretrain(small_config(tmp_path / "dataset"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_size_are_refused_before_ranks_start(report, dataset, tmp_path):
    """Catches a shape error inside every rank."""
    with pytest.raises(ConfigError, match="does not fit the network"):
        pretrain(
            small_config(dataset, f"init_from={report.weights}", "model.overrides.encoder_depth=1"), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_a_gpu_s_precision_is_refused_on_a_cpu(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"fp16 needs a GPU.*take fp32"):
        pretrain(small_config(dataset, "precision=fp16"), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "env", "sentence"),
    [
        ((), {}, "which of the 2 machines is this"),
        ((), {"SLURM_NODEID": "2"}, "which of the 2 machines is this"),
        (("launch.node_rank=1",), {}, "add --run DIR"),
        (("launch.node_rank=0",), {}, "add --run DIR"),
    ],
)
def test_a_machine_that_cannot_join_says_what_it_needs(dataset, monkeypatch, overrides, env, sentence):
    """Catches two machines that both take themselves for the first."""
    for name in NODE_NUMBERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    cfg = small_config(dataset, "launch.nodes=2", "launch.rendezvous=localhost:1", *overrides)
    with pytest.raises(ConfigError, match=sentence):
        (join if is_follower(cfg) else pretrain)(cfg, None)


def test_pictures_do_not_change_between_two_drawings(report, dataset, tmp_path):
    """Catches validation windows or masks drawn anew each time: curves over time would be noise."""
    folder = tmp_path / "copy"
    shutil.copytree(report.run_dir, folder)
    first = cv2.imread(str(report.picture))
    again = pretrain(small_config(dataset), folder)
    assert (np.asarray(cv2.imread(str(again.picture))) == np.asarray(first)).all()
    assert (folder / CONFIG_FILE).exists()
