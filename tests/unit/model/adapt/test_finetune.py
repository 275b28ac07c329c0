"""Fine-tuning by real ranks: it learns, keeps its best epoch, resumes exactly after a kill, and refuses clearly."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from infra.errors import ConfigError, TrainingError
from infra.launcher import ExitStatus
from model.adapt import finetune as tuning
from model.adapt.classifier import Classifier
from model.adapt.encoders import open_encoder
from model.adapt.examples import list_clips
from model.adapt.finetune import BEST_FILE, JOB_FILE, RESULT_FILE, classifier_scores, finetune, make_job, read_job
from model.adapt.objective import TargetScale
from model.adapt.plan import make_plan, targets_of
from model.adapt.worker import TuneState
from model.adapt_config import AdaptConfig
from model.train import ranks as launching
from model.train.checkpoint_folder import list_checkpoints
from model.weights import load_tensors
from pipeline.dataset.reader import open_dataset

ROOT = Path(__file__).resolve().parents[4]


def _job(weights, dataset, **changes):
    cfg = AdaptConfig.model_validate({
        "task": "deepfake", "weights": str(weights), "device": "cpu", "threads": 1,
        "data": {"dataset": str(dataset), "gap_frames": 16},
        "finetune": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "head_lr": 1e-2, "checkpoint_every": 1, **changes},
    })  # fmt: skip
    choice, reader = open_encoder(cfg), open_dataset(str(dataset))
    plan = make_plan(cfg, reader, list_clips(reader), choice.frames, choice.image_size)
    sides = plan.split.sides
    return make_job(cfg, plan.task, plan.pixels, choice, sides), choice


def _classifier(choice, bias=0.0):
    head = nn.Linear(choice.width, 1)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, bias)
    return Classifier(choice.build(), head)


@pytest.fixture(scope="module")
def finished(tiny_weights, drawn_dataset, tmp_path_factory):
    """A run that nothing interrupted: job, folder, result and the weights it left."""
    job, choice = _job(tiny_weights, drawn_dataset)
    folder, classifier = tmp_path_factory.mktemp("whole") / "finetune", _classifier(choice, bias=1.0)
    result = finetune(job, classifier, folder)
    return job, choice, folder, result, classifier


def test_the_best_epoch_is_kept_and_a_finished_job_is_only_read(finished):
    """Catches fine-tuning that hands over its last epoch, and a second call that trains again."""
    job, choice, folder, result, classifier = finished
    assert len(result.losses) == 2
    assert result.best_epoch >= 0, "a head with a wrong bias is easily bettered"
    assert min(val for _, val in result.losses) == result.losses[result.best_epoch][1] < result.start_val_loss
    again = _classifier(choice)
    before = (folder / BEST_FILE).stat().st_mtime_ns
    assert finetune(job, again, folder) == result
    assert (folder / BEST_FILE).stat().st_mtime_ns == before
    assert all(torch.equal(v, classifier.state_dict()[n]) for n, v in again.state_dict().items())
    assert read_job(folder) == job


def test_another_job_in_the_same_folder_is_refused(finished):
    job, choice, folder, *_ = finished
    other = replace(job, train=job.train[1:])
    with pytest.raises(ConfigError, match="fine-tuning with other settings"):
        finetune(other, _classifier(choice), folder)


def test_a_job_begun_before_settings_were_added_goes_on(finished, tmp_path):
    """Catches a setting that is new, changes nothing, and refuses the checkpoints of every fine-tuning that runs."""
    job, _, folder, *_ = finished
    tree = json.loads((folder / JOB_FILE).read_text())
    del tree["scale"], tree["cfg"]["balanced"], tree["weights_sha256"]
    before = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    (tmp_path / JOB_FILE).write_bytes(before)
    assert read_job(tmp_path) == replace(job, weights_sha256="")
    assert job.digest == hashlib.sha256(before).hexdigest()
    assert replace(job, weights_K=(2.0,)).digest != job.digest != replace(job, scale=TargetScale(1, 2)).digest


def test_a_job_is_whole_or_not_there(finished, tmp_path, monkeypatch):
    """Catches a job cut short by a full disk, which every later command finds, and cannot read."""
    job, choice, *_ = finished

    def cut_short(path, data):
        with path.open("wb") as file:
            file.write(data[:99])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    with pytest.raises(OSError, match="no space"):
        finetune(job, _classifier(choice), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


@pytest.mark.parametrize(
    ("settings", "gpus", "visible", "ranks"),
    [
        ({"device": "cuda:1"}, "", "1", 1),
        ({"device": "cuda:1"}, "3,GPU-b,7", "GPU-b", 1),
        ({"device": "cuda:1", "finetune": {"world_size": 1}}, "", "1", 1),
        ({"device": "auto"}, "3,5,7", "3,5,7", 3),
        ({"device": "cuda"}, "", "", 3),
        ({"device": "cuda", "finetune": {"world_size": 2}}, "", "", 2),
        ({"device": "cpu"}, "3,5,7", "", 1),
    ],
)
def test_ranks_get_the_gpus_that_were_asked_for(finished, tmp_path, monkeypatch, settings, gpus, visible, ranks):
    """Catches ``device=cuda:1`` that takes every GPU of a machine that others use."""
    seen = {}

    def launched(module, arguments, *, world_size, env, **_):
        seen.update(visible={**os.environ, **env}["CUDA_VISIBLE_DEVICES"], ranks=world_size)
        return ExitStatus.DONE

    monkeypatch.setattr(launching, "launch", launched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    tuning._launch(replace(finished[0], cfg=AdaptConfig.model_validate(settings)), tmp_path)
    assert seen == {"visible": visible, "ranks": ranks}


def test_one_gpu_and_several_ranks_are_refused():
    with pytest.raises(ValueError, match=r"device=cuda:1 is one GPU and finetune\.world_size=2 needs as many"):
        AdaptConfig.model_validate({"device": "cuda:1", "finetune": {"world_size": 2}})


def test_a_regression_is_tuned_in_deviations_and_handed_over_in_the_labels_unit(tiny_weights, drawn_dataset, tmp_path):
    """Catches rates that fit labels around 1 alone, and a scale that is lost when an interrupted run goes on."""
    (tmp_path / "labels.csv").write_text(
        "path,n,split\nanna.mp4,9e5,train\nbela.mp4,2e5,train\ncleo.mp4,4e5,val\ndora.mp4,6e5,test\n"
    )
    cfg = AdaptConfig.model_validate({
        "task": "custom", "weights": str(tiny_weights), "device": "cpu", "threads": 1,
        "data": {"dataset": str(drawn_dataset), "gap_frames": 16, "labels": str(tmp_path / "labels.csv"),
                 "kind": "regression"},
        "finetune": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "head_lr": 1e-2, "checkpoint_every": 1},
    })  # fmt: skip
    choice, reader = open_encoder(cfg), open_dataset(str(drawn_dataset))
    plan = make_plan(cfg, reader, list_clips(reader), choice.frames, choice.image_size)
    sides, folder = plan.split.sides, tmp_path / "finetune"
    job, classifier = (
        make_job(cfg, plan.task, plan.pixels, choice, sides),
        _classifier(choice),
    )
    result = finetune(job, classifier, folder)
    train, val = (np.array(targets_of(plan.pixels.variants, sides[side])) for side in ("train", "val"))
    assert result.start_val_loss == pytest.approx((val**2).mean() / train.var(), rel=1e-4), "the start says 0 of all"
    assert (best := result.best_epoch) >= 0, "a head that says 0 is easily bettered"
    said = classifier_scores(plan.task, classifier, plan.pixels, sides["val"], batch=4, device=torch.device("cpu"))
    assert ((said - val) ** 2).mean() / train.var() == pytest.approx(result.losses[best][1], rel=1e-3)
    (folder / RESULT_FILE).unlink()
    shutil.rmtree(list_checkpoints(folder)[-1])
    resumed = _classifier(choice, bias=5.0)
    assert finetune(job, resumed, folder) == result
    assert all(torch.equal(v, classifier.state_dict()[n]) for n, v in resumed.state_dict().items())


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path):
    """Catches state that is not in the checkpoint: schedule, order, made samples, moments of Adam."""
    job, choice, _, result, classifier = finished
    folder = tmp_path / "finetune"
    script = (
        "import sys; from pathlib import Path; import tests.unit.model.adapt.test_finetune as t\n"
        "from model.adapt.finetune import finetune\n"
        "job, choice = t._job(sys.argv[1], sys.argv[2]); finetune(job, t._classifier(choice, 1.0), Path(sys.argv[3]))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, job.cfg.weights, job.cfg.data.dataset, str(folder)], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list_checkpoints(folder) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
    for process in [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]:
        process.kill()  # ranks too: a SIGTERM would let them save
    child.wait()
    time.sleep(0.5)
    assert list_checkpoints(folder)
    assert not (folder / RESULT_FILE).exists(), "it was killed on the way"
    resumed = _classifier(choice, bias=1.0)
    assert finetune(job, resumed, folder) == result
    assert all(torch.equal(v, classifier.state_dict()[n]) for n, v in resumed.state_dict().items())
    assert load_tensors(folder / BEST_FILE).keys() == classifier.state_dict().keys()


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(finished, tiny_weights, drawn_dataset, tmp_path):
    """Catches ranks that see the same samples, or validation counted twice."""
    _, choice, _, result, _ = finished
    job, _ = _job(tiny_weights, drawn_dataset, world_size=2)
    shared = finetune(job, _classifier(choice, bias=1.0), tmp_path / "finetune")
    assert shared.start_val_loss == pytest.approx(result.start_val_loss, abs=1e-5)
    for pair, alone in zip(shared.losses, result.losses, strict=True):
        assert pair == pytest.approx(alone, abs=2e-3)


def test_a_loss_that_is_not_finite_is_one_sentence(tiny_weights, drawn_dataset, tmp_path):
    job, choice = _job(tiny_weights, drawn_dataset)
    with pytest.raises(TrainingError, match=r"diverged in epoch 1: the loss is nan; lower finetune\.lr"):
        finetune(job, _classifier(choice, bias=float("nan")), tmp_path / "f")


def test_rates_are_halved_when_epochs_bring_nothing():
    """Catches a plateau counted from the last best loss that was ever seen, or halved every epoch."""
    state = TuneState(start=1.0, best=1.0)
    assert [state.validated(loss, patience=1) for loss in (0.9, 0.95, 0.95, 0.95, 0.8)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert (state.factor, state.best_epoch, state.waited) == (0.5, 4, 0)
