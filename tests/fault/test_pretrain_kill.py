"""Kill pretraining in every way it can die; the same command afterwards must end in the same weights, bit for bit."""

import contextlib
import os
import resource
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
from model.train.checkpoint_folder import FOLDER, check, list_checkpoints
from model.train.run_folder import WEIGHTS
from tests.support.pretraining import face_dataset, small_config
from tests.support.processes import left_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
COMMAND = """
import sys
from pathlib import Path

from infra.config import load_config
from infra.errors import ProjectError
from infra.log import configure_logging
from model.pretrain import pretrain
from model.train.start import is_follower, join
from model.train_config import PretrainConfig

configure_logging()
cfg = load_config(PretrainConfig, sys.argv[1], sys.argv[3:])
try:
    (join if is_follower(cfg) else pretrain)(cfg, Path(sys.argv[2]))
except ProjectError as error:
    sys.exit(str(error))
"""


class Runs:
    """Starts the same command in any run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = small_config(face_dataset(folder / "dataset"), "checkpoint.every_steps=3", "checkpoint.keep_last=2")
        self.config = folder / "pretrain.yaml"
        self.config.write_text(dump_config(settings))

    def start(self, name: str, *overrides: str, **env: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env}
        log = (self.folder / f"{name}.log").open("ab")
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(self.config), str(self.folder / name), *overrides],
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
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for torchrun in psutil.Process(process.pid).children():
            for child in torchrun.children():
                with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
                    found += [child] if "LOCAL_RANK" in child.environ() else []
    return found


@pytest.mark.parametrize("victim", ["torchrun", "the command"])
def test_a_run_killed_and_started_again_ends_in_the_same_weights(runs, undisturbed, victim):
    """SIGKILL, in the middle of a step, of each process of the launch; no process may outlive it."""
    name = victim.replace(" ", "-")
    process = runs.start(name)
    runs.wait_for_step(name, 5)
    family = psutil.Process(process.pid).children(recursive=True)
    if victim == "torchrun":
        psutil.Process(process.pid).children()[0].kill()
    else:
        process.kill()
    process.wait(PATIENCE_S)
    assert left_of(family, 90) == []
    assert process.returncode != 0
    assert not (runs.folder / name / WEIGHTS).exists()
    weights = runs.finish(name)
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)


@pytest.mark.parametrize("victim", ["rank", "reader"])
def test_a_run_that_loses_a_process_goes_on_by_itself_to_the_same_weights(runs, undisturbed, victim):
    """SIGKILL in rank 1, as the kernel does when memory is short: no second command may be needed."""
    process = runs.start(victim, f"data.processes={victim == 'reader'}")
    runs.wait_for_step(victim, 5)
    rank = ranks_of(process)[-1]
    family = [rank] if victim == "rank" else [child for child in rank.children() if "pt_data" in child.name()]
    family[-1].kill()
    assert process.wait(PATIENCE_S) == 0
    assert "resuming after step" in (runs.folder / f"{victim}.log").read_text()
    weights = load_file(runs.folder / victim / WEIGHTS)
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)


def test_restarts_end_and_the_sentence_says_how_to_go_on(runs):
    """Catches a machine that restarts a dying run for ever: here no rank can write its second checkpoint.

    A file size limit stands for a full disk: it stops a write in the middle, as ENOSPC does.
    """
    process = runs.start("full", "launch.max_restarts=1")
    runs.wait_for_step("full", 3)
    first = runs.folder / "full" / FOLDER / "step-000003"
    limited: set[int] = set()
    while process.poll() is None:
        for rank in ranks_of(process) if first.exists() else []:
            if rank.pid not in limited:
                limited.add(rank.pid)
                resource.prlimit(rank.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        time.sleep(0.05)
    assert process.returncode != 0
    assert len(limited) == 4  # two ranks, started twice
    sentence = (runs.folder / "full.log").read_text().strip().splitlines()[-1]
    assert "could not be written" in sentence
    assert "goes on" in sentence
    assert check(list_checkpoints(runs.folder / "full")[-1]) is None


def test_a_disk_that_was_full_costs_nothing_but_time(runs, undisturbed):
    """What the run above left must be enough to end in the same weights."""
    weights = runs.finish("full")
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)


def test_sigterm_saves_and_says_how_to_go_on(runs, undisturbed):
    """A preempted machine: the step in hand is saved by all ranks, and nothing is lost."""
    process = runs.start("preempted")
    runs.wait_for_step("preempted", 4)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)
    assert (
        f"the same command with --run {runs.folder / 'preempted'} goes on"
        in (runs.folder / "preempted.log").read_text()
    )
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
    assert left_of(family, 90) == []
    weights = runs.finish(name)
    assert all(torch.equal(weights[key], undisturbed[key]) for key in undisturbed)
