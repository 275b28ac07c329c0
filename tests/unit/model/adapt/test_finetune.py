"""Fine-tuning by real ranks: it learns, keeps its best epoch, resumes exactly after a kill, and refuses clearly."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from infra.errors import ConfigError, TrainingError
from model.adapt.classifier import Classifier
from model.adapt.encoders import open_encoder
from model.adapt.examples import list_clips
from model.adapt.finetune import BEST_FILE, RESULT_FILE, finetune, make_job, read_job
from model.adapt.plan import make_plan
from model.adapt.worker import TuneState
from model.adapt_config import AdaptConfig
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
    return make_job(cfg, plan.task, plan.pixels, "pretrained", sides["train"], sides["val"]), choice


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
