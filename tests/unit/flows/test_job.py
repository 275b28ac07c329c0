"""A step as a child process: what comes back, and that nothing stays behind however it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.job import JobDied, run_job
from infra.errors import ProjectError, TransientError
from infra.progress import Progress
from tests.support.processes import runs


def double(number: int) -> int:
    logging.getLogger("infra.something").info("doubling %d", number)
    return 2 * number


def refuse() -> None:
    raise TransientError("the store does not answer; wait")


def break_down() -> None:
    {}["absent"]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def work_a_while(folder: Path) -> None:
    with Progress("work", 2, unit="piece", folder=folder, every_s=0) as progress:
        progress.update()
        time.sleep(2.5)


def sleep_beside_a_helper(folder: Path, stubborn: bool) -> None:
    """Start a helper in a session of its own, as daemons are, and sleep; clean up when told to end in order."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    helper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (folder / "pids").write_text(f"{os.getpid()} {helper.pid}")
    try:
        time.sleep(600)
    finally:
        (folder / "in_order").touch()


DRIVER = """
import sys
from pathlib import Path
from flows.job import run_job
from tests.unit.flows.test_job import sleep_beside_a_helper
run_job(sleep_beside_a_helper, Path(sys.argv[1]), False)
"""


def pids(folder: Path, limit_s: float = 60) -> list[psutil.Process]:
    end = time.monotonic() + limit_s
    while not (folder / "pids").exists() or not (text := (folder / "pids").read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return [psutil.Process(int(pid)) for pid in text.split()]


def test_result_logs_and_errors_come_back_as_they_are(caplog):
    """Catches a retry that never happens since TransientError comes back as another type, and logs that get lost."""
    with caplog.at_level(logging.INFO):
        assert run_job(double, 21) == 42
    assert "doubling 21" in caplog.messages
    with pytest.raises(TransientError, match="does not answer"):
        run_job(refuse)


def test_a_bug_keeps_its_trace_in_the_log_and_a_silent_death_is_one_sentence(caplog):
    with pytest.raises(ProjectError, match="KeyError: 'absent'"):
        run_job(break_down)
    assert "Traceback" in caplog.text
    with pytest.raises(JobDied, match=r"process of die ended without a word \(killed"):
        run_job(die)


def test_progress_is_told_while_it_works(tmp_path):
    told: list[dict] = []
    run_job(work_a_while, tmp_path, folder=tmp_path, on_progress=told.append)
    assert told
    assert told[0]["done"] == 1


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_cancelled_flow_ends_the_job_and_what_it_started(tmp_path, monkeypatch, stubborn):
    """Catches jobs that outlive their flow run: in order where they listen, by force where they do not."""
    monkeypatch.setattr("flows.job.GRACE_S", 2.0)

    def cancel(state: dict) -> None:
        raise KeyboardInterrupt  # as Prefect's TerminationSignal does: no Exception

    def progress(folder: Path) -> dict | None:
        return {"done": 1} if (folder / "pids").exists() and (folder / "pids").read_text() else None

    monkeypatch.setattr("flows.job._progress", progress)
    with pytest.raises(KeyboardInterrupt):
        run_job(sleep_beside_a_helper, tmp_path, stubborn, folder=tmp_path, on_progress=cancel)
    assert not [pid for pid in (tmp_path / "pids").read_text().split() if runs(int(pid))]
    assert (tmp_path / "in_order").exists() is not stubborn


def test_a_flow_run_killed_with_kill_9_takes_its_job_along(tmp_path):
    """Catches the orphan that goes on training beside the run that takes its place."""
    root = Path(__file__).resolve().parents[3]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=root)
    job, helper = pids(tmp_path)
    driver.kill()
    driver.wait()
    try:
        job.wait(20)
        assert (tmp_path / "in_order").exists()
    finally:
        helper.kill()
