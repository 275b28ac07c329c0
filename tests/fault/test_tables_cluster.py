"""A table whose cells run on a Ray cluster of two nodes: the flow is interrupted, then a node is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from infra.metrics import read_metrics
from model.train.checkpoint_folder import list_checkpoints
from tests.support.clip_dataset import drawn_face, write_clip_dataset
from tests.support.ray_nodes import commands, lose, ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = 40
PATIENCE_S = 400


def _size(dim: int) -> dict:
    shape = {"image_size": 112, "encoder_depth": 1, "encoder_dim": dim, "decoder_depth": 1, "decoder_dim": 16}
    return {"name": "marlin_vit_tiny", "overrides": shape}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Three encoders, each pretrained and probed; a cell takes the one CPU of a node."""
    write_clip_dataset(tmp_path / "d", [{"a": [64, 64], "b": [64, 64]}, {"c": [64, 64]}], draw=drawn_face)
    tree = {
        "tables": ["encoders"], "parallel": 4, "launch": {"ray_gpus": 0, "cpus": 1}, "work": "tables",
        "pretrain": {
            "data": {"dataset": "d", "val_clips": 0, "workers": 1}, "global_batch": 2, "world_size": 1, "log_every": 1,
            "optim": {"total_clips": 2 * STEPS, "warmup_clips": 2}, "checkpoint": {"every_steps": 4},
        },
        "adapt": {
            "device": "cpu", "threads": 1, "bootstrap": 100, "probe": {"epochs": 5}, "finetune": {"enabled": False},
            "pictures": 0,
        },
        "data": {"deepfake": {"dataset": "d", "gap_frames": 0, "windows_per_clip": 2}},
        "sizes": {"ViT-S": _size(24), "ViT-B": _size(48), "ViT-L": _size(96)},
    }  # fmt: skip
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture
def start(config: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(address, "key=value")`` starts the flow; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(address: str, *overrides: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", "tables", "--config", str(config), *overrides]
        flow = subprocess.Popen(
            command, cwd=config.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": address},
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background shell is deaf to Ctrl-C
        )  # fmt: skip
        started.append(flow)
        return flow

    yield begin
    for flow in started:
        flow.kill()
        flow.wait()


def _until(flow: subprocess.Popen[str], happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert flow.poll() is None, flow.communicate()[1][-2000:]
        assert time.monotonic() < end
        time.sleep(0.2)


def _cell(node: object) -> Path | None:
    """The folder of the pretraining that trains on a node."""
    found = list(commands(node, "model.train.worker").values())
    return Path(found[0].split()[-1]) if found else None


def test_cells_survive_the_flow_and_a_node(config: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Catches cells that wait for each other, outlive their flow, are lost with a node, begin anew, or run twice."""
    with ray_nodes(1, 1) as cluster:
        head, second = cluster.list_all_nodes()
        refused = start(cluster.address, "launch.cpus=3")
        assert "no machine of the Ray cluster has 0 GPUs and 3 CPUs (at most 0 and 1)" in refused.communicate()[1]
        assert refused.returncode == 2

        flow = start(cluster.address)
        _until(flow, lambda: _cell(head) and _cell(second))
        cells = [cell for node in (head, second) for cell in commands(node, "tables/runs")]
        assert len(cells) >= 4  # marlin and torchrun, twice
        flow.send_signal(signal.SIGINT)
        _, said = flow.communicate(timeout=PATIENCE_S)
        assert (flow.returncode, said.splitlines()[-1]) == (130, "marlin: stopped; the same command goes on from here")
        assert psutil.wait_procs(cells, timeout=60)[1] == []

        flow = start(cluster.address)
        _until(flow, lambda: _cell(head) and (cell := _cell(second)) and list_checkpoints(config.parent / cell))
        lost = config.parent / str(_cell(second))
        saved = int(list_checkpoints(lost)[-1].name.removeprefix("step-"))
        lose(second)
        said, log = flow.communicate(timeout=PATIENCE_S * 2)
        assert flow.returncode == 0, log[-2000:]
        page = (config.parent / said.strip().splitlines()[-1]).read_text()
        rows = [line for line in page.splitlines() if line.startswith("| ViT-")][:3]
        assert all("LP [" in row and "failed" not in row and "not run" not in row for row in rows), page
        steps = [row["step"] for row in read_metrics(lost) if "loss/reconstruction" in row]
        assert steps == list(range(1, STEPS + 1))
        assert f"resuming after step {saved}" in (lost / "output.log").read_text()

        runs = sorted((config.parent / "tables" / "runs").iterdir())
        assert [run.name.split("-")[0] for run in runs] == ["adapt"] * 3 + ["pretrain"] * 3
        logs = {run: (run / "output.log").stat().st_mtime_ns for run in runs}
        flow = start(cluster.address)
        assert (config.parent / flow.communicate(timeout=PATIENCE_S)[0].strip().splitlines()[-1]).read_text() == page
        assert {run: (run / "output.log").stat().st_mtime_ns for run in runs} == logs
