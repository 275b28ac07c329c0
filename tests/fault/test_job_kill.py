"""Cancel and kill the jobs of flows in the middle of real work: nothing runs on, and the next run goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.job import run_job
from flows.tasks import ingest_job
from infra.config import dump_config
from infra.metrics import read_metrics
from model.pretrain import pretrain
from model.train.checkpoint_folder import list_checkpoints
from pipeline.config import IngestConfig
from tests.support.pretraining import face_dataset, small_config
from tests.support.processes import left_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 200
FLOW = """
import sys
from pathlib import Path
from flows.job import run_job
from infra.config import load_config
from model.pretrain import pretrain
from model.train_config import PretrainConfig
run_job(pretrain, load_config(PretrainConfig, sys.argv[1]), Path(sys.argv[2]))
"""


class Cancelled(BaseException):
    """What Prefect raises in a flow run that is cancelled."""


@pytest.fixture
def family() -> Callable[[], list[psutil.Process]]:
    """All that runs for the job: not what other tests of this process started, nor Python's resource tracker."""
    others = set(psutil.Process().children(recursive=True))

    def runs() -> list[psutil.Process]:
        children = set(psutil.Process().children(recursive=True)) - others
        return [child for child in children if not _is_tracker(child)]

    return runs


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True


def test_a_cancelled_training_saves_and_leaves_no_rank(tmp_path, family):
    """Catches ranks that train on beside the run that takes their place, and a cancel that costs a thousand steps."""
    cfg = small_config(face_dataset(tmp_path / "set"), "checkpoint.every_steps=1000", "optim.total_clips=4000")
    run, met = tmp_path / "run", []

    def cancel(state: dict) -> None:
        if state["done"] >= 2:
            met.extend(family())
            raise Cancelled

    with pytest.raises(Cancelled):
        run_job(pretrain, cfg, run, folder=run, on_progress=cancel)
    assert len(met) > 3  # the child, torchrun, two ranks
    assert left_of(met) == []
    (saved,) = list_checkpoints(run)
    assert int(saved.name.removeprefix("step-")) >= 2


def test_a_flow_run_killed_in_training_leaves_nothing_and_goes_on(tmp_path):
    """Catches what kill -9 of the flow run alone leaves behind: its child must notice by itself."""
    cfg = small_config(face_dataset(tmp_path / "set"), "checkpoint.every_steps=2", "optim.total_clips=240")
    (tmp_path / "cfg.yaml").write_text(dump_config(cfg))
    run = tmp_path / "run"
    command = [sys.executable, "-c", FLOW, str(tmp_path / "cfg.yaml"), str(run)]
    flow = subprocess.Popen(command, cwd=ROOT)
    end = time.monotonic() + PATIENCE_S
    while not any(row["step"] >= 4 for row in read_metrics(run)):
        assert time.monotonic() < end
        assert flow.poll() is None
        time.sleep(0.05)
    met = psutil.Process(flow.pid).children(recursive=True)
    flow.kill()
    flow.wait()
    assert left_of(met) == []
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S).returncode == 0
    steps = [row["step"] for row in read_metrics(run) if "loss/reconstruction" in row]
    assert steps == list(range(1, 61))


def test_a_cancelled_ingest_stops_its_ray_and_goes_on(tmp_path, sample_videos, monkeypatch, family):
    """Catches a Ray cluster that nobody owns any more, with its workers and its memory."""
    (tmp_path / "videos").mkdir()
    for name in ("single_face.mp4", "face_noface.mov"):
        shutil.copy(sample_videos / name, tmp_path / "videos")
    cfg = IngestConfig(sources=(str(tmp_path / "videos"),), out=str(tmp_path / "set"), shard_mb=1, workers=1)
    met: list[psutil.Process] = []
    monkeypatch.setattr("flows.job._progress", lambda folder: {"looked": time.monotonic()})  # look at every poll

    def cancel(state: dict) -> None:
        if any("raylet" in process.name() for process in family()):
            met.extend(family())
            raise Cancelled

    with pytest.raises(Cancelled):
        run_job(ingest_job, cfg, tmp_path / "run", folder=tmp_path / "run", on_progress=cancel)
    assert met
    assert left_of(met) == []
    report = run_job(ingest_job, cfg, tmp_path / "again")
    assert (report.new, report.version, report.listed) == (True, 1, 2)
