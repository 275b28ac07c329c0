"""Kill pretraining in every way it can die; the same command afterwards must end in the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from infra.config import dump_config
from infra.metrics import read_metrics
from model.train.checkpoint import FOLDER, list_checkpoints
from model.train.run_folder import WEIGHTS
from tests.support.pretraining import face_dataset, small_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
COMMAND = (
    "import sys; from pathlib import Path; from infra.config import load_config; from model.pretrain import pretrain; "
    "from model.train_config import PretrainConfig; "
    "pretrain(load_config(PretrainConfig, sys.argv[1]), Path(sys.argv[2]))"
)


class Runs:
    """Starts the same command in any run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = small_config(face_dataset(folder / "dataset"), "checkpoint.every_steps=3", "checkpoint.keep_last=2")
        self.config = folder / "pretrain.yaml"
        self.config.write_text(dump_config(settings))

    def start(self, name: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        log = (self.folder / f"{name}.log").open("ab")
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(self.config), str(self.folder / name)],
            cwd=ROOT, env=environment, stdout=log, stderr=log,
        )  # fmt: skip

    def finish(self, name: str) -> dict[str, torch.Tensor]:
        """Run to the end; return the weights."""
        process = self.start(name)
        assert process.wait(PATIENCE_S) == 0, (self.folder / f"{name}.log").read_text()[-3000:]
        return load_file(self.folder / name / WEIGHTS)

    def wait_for_step(self, name: str, step: int) -> None:
        """Wait until the run has logged ``step``."""
        end = time.monotonic() + PATIENCE_S
        while not any(row["step"] >= step for row in read_metrics(self.folder / name)):
            assert time.monotonic() < end, (self.folder / f"{name}.log").read_text()[-3000:]
            time.sleep(0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="module")
def undisturbed(runs) -> dict[str, torch.Tensor]:
    """Weights of a run that nobody killed."""
    return runs.finish("undisturbed")


def ranks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The worker processes of a launch."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RANK" in child.environ() and "LOCAL_RANK" in child.environ()]


def gone(processes: list[psutil.Process]) -> None:
    """Wait until all have ended."""
    _, alive = psutil.wait_procs(processes, timeout=90)
    assert not alive


@pytest.mark.parametrize("victim", ["a rank", "torchrun", "the command"])
def test_a_run_killed_and_started_again_ends_in_the_same_weights(runs, undisturbed, victim):
    """SIGKILL, in the middle of a step, of each process of the launch; no process may outlive it."""
    name = victim.replace(" ", "-")
    process = runs.start(name)
    runs.wait_for_step(name, 5)
    family = psutil.Process(process.pid).children(recursive=True)
    if victim == "a rank":
        ranks_of(process)[-1].kill()
    elif victim == "torchrun":
        psutil.Process(process.pid).children()[0].kill()
    else:
        process.kill()
    process.wait(PATIENCE_S)
    gone(family)
    assert process.returncode != 0
    assert not (runs.folder / name / WEIGHTS).exists()
    weights = runs.finish(name)
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)


def test_sigterm_saves_and_says_how_to_go_on(runs, undisturbed):
    """A preempted machine: the step in hand is saved by all ranks, and nothing is lost."""
    process = runs.start("preempted")
    runs.wait_for_step("preempted", 4)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)
    assert "the same command goes on" in (runs.folder / "preempted.log").read_text()
    saved = list_checkpoints(runs.folder / "preempted")[-1]
    last = read_metrics(runs.folder / "preempted")[-1]["step"]
    assert saved.name == f"step-{last:06d}"
    weights = runs.finish("preempted")
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)


def test_a_run_killed_while_saving_falls_back_and_ends_in_the_same_weights(runs, undisturbed):
    """Kill when the temporary folder of the second checkpoint appears."""
    name = "saving"
    process = runs.start(name)
    temporary = runs.folder / name / FOLDER / "step-000006.tmp"
    end = time.monotonic() + PATIENCE_S
    while not temporary.exists():
        assert time.monotonic() < end
        time.sleep(0.001)
    family = psutil.Process(process.pid).children(recursive=True)
    for child in family:
        child.kill()
    process.wait(PATIENCE_S)
    gone(family)
    weights = runs.finish(name)
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)
