"""Pretraining with two engines on a GPU, in every precision: it learns, it resumes, and its numbers are the CPU's."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from infra.metrics import read_metrics
from model.data.batch import collate
from model.losses import reconstruction_loss
from model.pretrain import PretrainReport, pretrain
from model.train.checkpoint_folder import list_checkpoints
from model.train.networks import build_networks
from model.train.sources import open_source
from model.train.step import forward_generator
from model.train_config import PretrainConfig
from model.weights import load_weights
from pipeline.dataset.reader import open_dataset
from tests.support.pretraining import cut_off, small_config

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

STEPS = 40
LONG = (f"optim.total_clips={STEPS * 4}", "checkpoint.every_steps=20", "world_size=1")


def loss_on_the_cpu(cfg: PretrainConfig) -> float:
    """The reconstruction loss of the first batch, before any update, in fp32."""
    generator, _ = build_networks(cfg)
    source = open_source(cfg, open_dataset(cfg.data.dataset), "train")
    with torch.no_grad():
        batch = collate([source.load(position) for position in range(cfg.global_batch)])
        return float(reconstruction_loss(*forward_generator(generator, batch)))


def assert_it_learnt(report: PretrainReport) -> None:
    losses = [row["loss/reconstruction"] for row in read_metrics(report.run_dir) if "loss/reconstruction" in row]
    assert len(losses) == STEPS
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.8 * losses[0]
    state = load_weights(report.run_dir).state
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (("precision=fp32",), 1e-4),
        (("precision=bf16", "micro_batch=2"), 2e-2),
        (("precision=bf16", "zero_stage=2"), 2e-2),
        (("precision=fp16",), 2e-2),
    ],
)
def test_a_run_starts_from_the_cpu_s_loss_and_learns(dataset: Path, tmp_path: Path, overrides, tolerance):
    """Catches batches, masks or weights that change on their way to the GPU, and a precision that does not train.

    fp16 begins with a loss scale that overflows: DeepSpeed leaves those first updates out, and no loss may be NaN.
    """
    cfg = small_config(dataset, *LONG, *overrides)
    report = pretrain(cfg, tmp_path / "run")
    assert report.first["loss/reconstruction"] == pytest.approx(loss_on_the_cpu(cfg), rel=tolerance)
    assert_it_learnt(report)


def test_the_default_precision_is_bf16_and_a_run_cut_off_goes_on_where_it_was(dataset: Path, tmp_path: Path):
    """Catches a resume that loses weights, masters, moments or the place in the data.

    Kernels on a GPU do not add in a fixed order, so this is closeness; the CPU's tests ask for equality.
    """
    cfg = small_config(dataset, *LONG)
    whole = pretrain(cfg, tmp_path / "whole")
    assert '"precision": "bf16"' in (whole.run_dir / "run.json").read_text()
    assert_it_learnt(whole)
    folder = cut_off(whole.run_dir, tmp_path / "resumed")
    assert [path.name for path in list_checkpoints(folder)] == ["step-000020"]
    resumed = pretrain(cfg, folder)

    def losses(report: PretrainReport, step: int) -> float:
        rows = read_metrics(report.run_dir)
        return [row["loss/reconstruction"] for row in rows if row["step"] == step and "lr" in row][-1]

    assert losses(resumed, 21) == pytest.approx(losses(whole, 21), rel=1e-2)
    assert losses(resumed, STEPS) == pytest.approx(losses(whole, STEPS), rel=0.1)


def test_two_gpus_see_the_batch_that_one_sees(dataset: Path, tmp_path: Path):
    """Catches ranks that read the same clips, or gradients that are summed in place of averaged."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"two CUDA devices are needed, {torch.cuda.device_count()} found")
    runs = [
        pretrain(small_config(dataset, "precision=fp32", f"world_size={world}"), tmp_path / str(world))
        for world in (1, 2)
    ]
    for row in ("first", "last"):
        one, two = (getattr(run, row)["loss/reconstruction"] for run in runs)
        assert two == pytest.approx(one, rel=1e-2)
