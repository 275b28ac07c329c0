"""Ranks start, and how they ended comes back as one word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.launcher import EXIT_FILE, ExitStatus, launch
from tests.support.processes import runs

RANK = """
import os, signal, sys, time
from pathlib import Path
from infra.launcher import ExitStatus, report_exit

folder, order = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    report_exit(folder, ExitStatus.PREEMPTED)
    sys.exit(1)

signal.signal(signal.SIGTERM, stop)
part = folder / f"part-{os.environ['RANK']}"
part.write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']}")
part.rename(folder / f"rank-{os.environ['RANK']}")
if order == "diverge":
    report_exit(folder, ExitStatus.DIVERGED)
if order == "wait":
    time.sleep(120)
sys.exit(order != "finish")
"""


@pytest.fixture
def ranks(tmp_path: Path) -> dict[str, str]:
    """Environment in which ``-m ranks`` is found; several runs at once on few cores must not starve each other."""
    (tmp_path / "ranks.py").write_text(RANK)
    return {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


def test_all_ranks_run_and_what_an_earlier_launch_left_is_forgotten(tmp_path: Path, ranks: dict[str, str]) -> None:
    """A stale status would call the resumed run diverged for ever."""
    (tmp_path / EXIT_FILE).write_text("DIVERGED")
    status = launch("ranks", [str(tmp_path), "finish"], world_size=2, run_dir=tmp_path, env=ranks)
    assert status is ExitStatus.DONE
    assert [(tmp_path / f"rank-{rank}").read_text().split()[1] for rank in (0, 1)] == ["2", "2"]


@pytest.mark.parametrize(("order", "status"), [("diverge", ExitStatus.DIVERGED), ("fail", ExitStatus.FAILED)])
def test_the_ranks_own_reason_is_told_and_no_reason_is_a_failure(
    tmp_path: Path, ranks: dict[str, str], order: str, status: ExitStatus, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch("ranks", [str(tmp_path), order], world_size=1, run_dir=tmp_path, env=ranks) is status
    assert "Traceback" not in capfd.readouterr().err  # torchrun's own, forty lines above the sentence that counts


@pytest.mark.slow
def test_sigterm_reaches_the_ranks_and_comes_back_as_preempted(tmp_path: Path, ranks: dict[str, str]) -> None:
    """Without it a preempted machine loses all since the last checkpoint."""
    driver = _driver(tmp_path, ranks)
    _rank_pids(tmp_path)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=60)
    assert out.split()[-1] == b"PREEMPTED"
    assert b"Traceback" not in err


@pytest.mark.slow
def test_a_signal_before_the_ranks_listen_is_no_lost_rank(tmp_path: Path, ranks: dict[str, str]) -> None:
    """Catches "a rank ended without a word (killed, or out of memory)" after a plain Ctrl-C in the first seconds."""
    deaf = RANK.replace("signal.signal(signal.SIGTERM, stop)", "")
    assert deaf != RANK
    (tmp_path / "ranks.py").write_text(deaf)
    driver = _driver(tmp_path, ranks)
    _rank_pids(tmp_path)
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=60)
    assert out.split()[-1] == b"PREEMPTED"


@pytest.mark.slow
def test_killing_the_launching_process_leaves_no_rank(tmp_path: Path, ranks: dict[str, str]) -> None:
    """A rank that outlived its command would hold the GPU and write into the run folder."""
    driver = _driver(tmp_path, ranks)
    pids = _rank_pids(tmp_path)
    with driver:  # not communicate(): the ranks hold the other end, so it would wait for their own end
        driver.kill()
    _until(lambda: not any(map(runs, pids)), "the ranks are gone", limit_s=45)


def _driver(folder: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    code = (
        "from pathlib import Path; from infra.launcher import launch\n"
        f"folder = {str(folder)!r}\n"
        "print(launch('ranks', [folder, 'wait'], world_size=2, run_dir=Path(folder)).name)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, **pipes)


def _rank_pids(folder: Path) -> list[int]:
    files = [folder / "rank-0", folder / "rank-1"]
    _until(lambda: all(file.exists() for file in files), "both ranks have started")
    return [int(file.read_text().split()[0]) for file in files]


def _until(condition: Callable[[], bool], what: str, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s until {what}"
        time.sleep(0.1)
