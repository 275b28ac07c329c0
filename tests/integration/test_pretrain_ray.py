"""Pretraining as a task of a Ray cluster, as it is asked for on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import main
from infra.config import dump_config
from infra.errors import ConfigError
from model.train.start import RAY_LOG, on_ray
from model.weights import load_weights
from tests.support.pretraining import face_dataset, small_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_run_on_ray_leaves_what_a_run_here_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches settings that are lost on the way to the cluster: the weights say which they were."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = tmp_path / "pretrain.yaml"
    config.write_text(dump_config(small_config(face_dataset(tmp_path / "dataset"), "optim.total_clips=16")))
    run = tmp_path / "run"
    assert main(["pretrain", "--config", str(config), "--run", str(run), "launch.ray_gpus=0"]) == 0
    weights = load_weights(run)
    assert (weights.provenance["steps"], weights.config.image_size) == (4, 112)
    assert "pretrain 4/4 step" in (run / RAY_LOG).read_text()
    with pytest.raises(ConfigError, match="no machine of the Ray cluster has 99 GPUs"):
        on_ray(small_config(tmp_path / "dataset", "launch.ray_gpus=99"), run)
