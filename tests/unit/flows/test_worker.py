"""What a container's worker does when the container is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import left_of

ROOT = Path(__file__).resolve().parents[3]
FLOW_RUN = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(600)
"""
WORKER = f"""
import signal, subprocess, sys
flow_run = subprocess.Popen([sys.executable, "-c", {FLOW_RUN!r}])
def leave(*_):
    if "%s" == "leaves":
        flow_run.terminate()
        sys.exit()
signal.signal(signal.SIGTERM, leave)
flow_run.wait()
"""
STARTER = "import sys, flows.processes as p, flows.worker as w; p.GRACE_S = 1.0; sys.exit(w.main(sys.argv[1:]))"


def _start(folder: Path, code: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", STARTER, sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=folder, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("worker", ["leaves", "waits"])  # what Prefect's does, and does where SIGINT is ignored
def test_flow_runs_save_before_a_stopped_worker_ends(tmp_path, worker):
    """Catches `docker stop` that kills a training while it saves, or before anybody has told it to."""
    main = _start(tmp_path, WORKER % worker)
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert main.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    family = psutil.Process(main.pid).children(recursive=True)
    main.send_signal(signal.SIGTERM)
    try:
        assert main.wait(30) == 0
        assert (tmp_path / "saved").exists()  # it is the last one: the container ends with it
        assert not left_of(family, 0)
    finally:
        for process in (*left_of(family, 0), main):
            process.kill()


def test_a_worker_that_ends_by_itself_gives_its_exit_code(tmp_path):
    """Catches a container that stays up without its worker, or looks well when that failed."""
    assert _start(tmp_path, "raise SystemExit(3)").wait(30) == 3
