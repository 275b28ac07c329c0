"""What a machine of the cluster runs, without a cluster: see tests/fault/test_tables_cluster.py for one."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from infra import ray_job

FORMER = "import time; time.sleep(1.5); print('saved', flush=True)"


def test_a_command_waits_for_what_is_left_of_its_former_self(tmp_path: Path) -> None:
    """Catches two that write into one run folder: a machine that Ray lost may still be saving."""
    log = tmp_path / "ray.log"
    with log.open("ab") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        former = subprocess.Popen([sys.executable, "-c", FORMER], stdout=output)
    code, last = ray_job._run("platform", [], str(tmp_path), str(log))
    assert (code, last) == (0, log.read_text().splitlines()[-1])
    assert [line == "saved" for line in log.read_text().splitlines()] == [True, False]
    assert former.wait() == 0


def test_where_files_cannot_be_locked_it_starts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches minutes before every cell of a table on a file system that has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ray_job.fcntl, "flock", refuse)
    monkeypatch.setattr(ray_job.time, "sleep", lambda _: pytest.fail("it waits"))
    assert ray_job._run("platform", [], str(tmp_path), str(tmp_path / "ray.log"))[0] == 0


def test_a_command_that_is_killed_is_not_told_with_the_words_of_a_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a cell killed without a word that is given the reason of last night's."""
    (tmp_path / "dies.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ray.log").write_text("no GPU\n")
    assert ray_job._run("dies", [], str(tmp_path), str(tmp_path / "ray.log")) == (-9, "")
