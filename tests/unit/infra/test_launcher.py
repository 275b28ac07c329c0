"""Ranks start, and how they ended comes back as one word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infra.launcher import EXIT_FILE, ExitStatus, launch, threads_of
from tests.support.processes import runs

RANK = """
import os, signal, sys, time
from pathlib import Path
from infra.launcher import ExitStatus, report_exit

folder, order = Path(sys.argv[1]), sys.argv[2]

def stop(*_):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if order == "save":
        time.sleep(6)
        (folder / f"saved-{os.environ['RANK']}").touch()
    report_exit(folder, ExitStatus.PREEMPTED)
    sys.exit(1)

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, stop)
part = folder / f"part-{os.environ['RANK']}"
part.write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']}")
part.rename(folder / f"rank-{os.environ['RANK']}")
if order == "diverge":
    report_exit(folder, ExitStatus.DIVERGED)
if order in ("wait", "save"):
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


def test_ranks_share_the_cores_that_the_command_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the threads of a whole machine on the few cores of a container or a job."""
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [threads_of(ranks) for ranks in (1, 2, 16)] == [8, 4, 1]


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
    deaf = RANK.replace("    signal.signal(number, stop)", "    pass")
    assert deaf != RANK
    (tmp_path / "ranks.py").write_text(deaf)
    driver = _driver(tmp_path, ranks)
    _rank_pids(tmp_path)
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=60)
    assert out.split()[-1] == b"PREEMPTED"


@pytest.mark.slow
@pytest.mark.parametrize("order", ["Ctrl-C, Ctrl-C", "the whole family is ended"])
def test_a_second_signal_breaks_no_saving_off(tmp_path: Path, ranks: dict[str, str], order: str) -> None:
    """Catches a command that comes back while its ranks still save: "saved" is not so yet."""
    driver = _driver(tmp_path, ranks, "save")
    _rank_pids(tmp_path)
    if order == "Ctrl-C, Ctrl-C":
        for _ in range(2):  # the terminal tells the whole foreground group
            os.killpg(driver.pid, signal.SIGINT)
            time.sleep(1)
    else:
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        driver.send_signal(signal.SIGTERM)
        time.sleep(1)  # it is told alone, then all that it left
        for process in family:
            process.send_signal(signal.SIGTERM)
    driver.wait(60)  # not communicate(): the ranks hold the other end, so it would wait for them
    assert [(tmp_path / f"saved-{rank}").exists() for rank in (0, 1)] == [True, True]
    out, err = driver.communicate(timeout=60)
    assert out.split()[-1] == b"PREEMPTED"
    assert b"told already" in err


@pytest.mark.slow
def test_killing_the_launching_process_leaves_no_rank(tmp_path: Path, ranks: dict[str, str]) -> None:
    """A rank that outlived its command would hold the GPU and write into the run folder."""
    driver = _driver(tmp_path, ranks)
    pids = _rank_pids(tmp_path)
    with driver:  # not communicate(): the ranks hold the other end, so it would wait for their own end
        driver.kill()
    _until(lambda: not any(map(runs, pids)), "the ranks are gone", limit_s=45)


def _driver(folder: Path, env: dict[str, str], order: str = "wait") -> subprocess.Popen[bytes]:
    code = (
        "from pathlib import Path; from infra.launcher import launch\n"
        f"folder = {str(folder)!r}\n"
        f"print(launch('ranks', [folder, {order!r}], world_size=2, run_dir=Path(folder)).name)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, start_new_session=True, **pipes)


def _rank_pids(folder: Path) -> list[int]:
    files = [folder / "rank-0", folder / "rank-1"]
    _until(lambda: all(file.exists() for file in files), "both ranks have started")
    return [int(file.read_text().split()[0]) for file in files]


def _until(condition: Callable[[], bool], what: str, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s:.0f} s until {what}"
        time.sleep(0.1)
