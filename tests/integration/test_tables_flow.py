"""The flow of the tables from pretraining to the page, at toy size: cells are run once, and a lost one alone again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.clip_dataset import drawn_face, write_clip_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


def _size(dim: int) -> dict:
    shape = {"image_size": 112, "encoder_depth": 1, "encoder_dim": dim, "decoder_depth": 1, "decoder_dim": 16}
    return {"name": "marlin_vit_tiny", "overrides": shape}


def _marlin(config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "tables", "--config", str(config), *overrides]
    return subprocess.run(
        command, cwd=config.parent, capture_output=True, text=True, timeout=800, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _run(config: Path) -> str:
    done = _marlin(config)
    assert done.returncode == 0, done.stderr[-2000:]
    return Path(config.parent, done.stdout.strip().splitlines()[-1]).read_text()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three encoders at toy size."""
    write_clip_dataset(tmp_path / "d", [{"a": [64, 64], "b": [64, 64]}, {"c": [64, 64]}], draw=drawn_face)
    tree = {
        "tables": ["encoders"],
        "pretrain": {
            "data": {"dataset": "d", "val_clips": 0}, "optim": {"total_clips": 4, "warmup_clips": 2}, "global_batch": 2,
            "world_size": 1,
        },
        "adapt": {
            "device": "cpu", "threads": 1, "bootstrap": 100, "probe": {"epochs": 5}, "finetune": {"enabled": False},
            "pictures": 0,
        },
        "data": {"deepfake": {"dataset": "d", "gap_frames": 0, "windows_per_clip": 2}},
        "sizes": {"ViT-S": _size(24), "ViT-B": _size(48), "ViT-L": _size(96)},
        "work": "tables",
    }  # fmt: skip
    config = tmp_path / "tables.yaml"
    config.write_text(yaml.safe_dump(tree))
    return config


def test_a_failed_cell_is_a_failed_command_that_has_written_its_page(config):
    """Catches a night of failed cells that ends with exit code 0 and a Completed flow."""
    done = _marlin(config, "pretrain.init_from=absent.safetensors")
    assert done.returncode == 2, done.stderr[-2000:]
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("marlin: ")
    assert "6 of 6 cells failed, the first with: " in sentence
    assert "failed: " in (config.parent / "tables" / "tables.md").read_text()


def test_a_table_is_filled_and_only_what_is_lost_is_run_again(config, tmp_path):
    """Catches cells that are never finished, run twice, or take each other down."""
    first = _run(config)
    lines = [line for line in first.splitlines() if line.startswith("| ViT-")]
    assert len(lines) == 3 + 3, "three rows of the table, three of what is behind it"
    assert all("LP [" in line and "not run" not in line and "failed" not in line for line in lines[:3])
    runs = sorted((tmp_path / "tables" / "runs").iterdir())
    assert [run.name.split("-")[0] for run in runs] == ["adapt"] * 3 + ["pretrain"] * 3
    results = [run / "result.json" for run in runs if run.name.startswith("adapt")]
    results[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in [*results[1:], *(r / "weights.safetensors" for r in runs[3:])]}
    assert _run(config) == first
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads(results[0].read_text())["version"] == 1
