"""A child that hangs, swells or crashes costs its own call and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.errors import ConfigError
from infra.sandbox import Sandbox, SandboxDied, SandboxMemory, SandboxTimeout

ROOT = str(Path(__file__).resolve().parents[3])
FACTORY = "tests.unit.infra.test_sandbox:make_worker"


def make_worker(base: int = 0) -> Callable[[Any], Any]:
    """What the child runs."""

    def work(order: Any) -> Any:
        if order == "hang":
            time.sleep(60)
        if order == "stop":  # as one asleep in a driver: no signal but SIGKILL reaches it
            os.kill(os.getpid(), signal.SIGSTOP)
        if order == "swell":
            keep = bytearray(os.urandom(1 << 20) * 600)
            time.sleep(30)
            return len(keep)
        if order == "crash":
            os.abort()
        if order == "refuse":
            raise ConfigError("no")
        return os.getpid() if order == "pid" else base + order

    return work


def make_nothing() -> Callable[[Any], Any]:
    """A factory that fails."""
    raise ConfigError("no weights")


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    with Sandbox(FACTORY, {"base": 1}, memory_limit_bytes=300 << 20, recycle_after=3) as box:
        yield box


def test_it_answers_and_raises_what_the_function_raised(sandbox: Sandbox) -> None:
    assert sandbox.call(41, deadline_s=30) == 42
    with pytest.raises(ConfigError, match="no"):
        sandbox.call("refuse", deadline_s=30)


def test_a_worker_that_cannot_be_made_says_why_each_time_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a child that is left behind, and a second call that is answered with a TypeError."""
    monkeypatch.setenv("PYTHONPATH", ROOT)
    box = Sandbox("tests.unit.infra.test_sandbox:make_nothing", memory_limit_bytes=300 << 20)
    for _ in range(2):
        with pytest.raises(ConfigError, match="no weights"):
            box.call(1, deadline_s=30)
        assert box.pid is None


def test_a_worker_whose_module_is_absent_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a child left behind where its factory fails with an error that is not the project's."""
    monkeypatch.setenv("PYTHONPATH", ROOT)
    with Sandbox("infra.absent:make", memory_limit_bytes=300 << 20) as box:
        with pytest.raises(ImportError, match=r"infra\.absent"):
            box.call(1, deadline_s=30)
        assert box.pid is None


@pytest.mark.parametrize(
    ("order", "deadline_s", "error"),
    [
        ("hang", 1.0, SandboxTimeout),
        ("stop", 1.0, SandboxTimeout),
        ("swell", 30.0, SandboxMemory),
        ("crash", 30.0, SandboxDied),
    ],
)
def test_a_ruined_call_ends_the_child_and_the_next_call_works(
    sandbox: Sandbox, order: str, deadline_s: float, error: type[Exception]
) -> None:
    first = sandbox.call("pid", deadline_s=30)
    with pytest.raises(error):
        sandbox.call(order, deadline_s=deadline_s)
    assert not psutil.pid_exists(first)
    assert sandbox.call(1, deadline_s=30) == 2


def test_the_child_is_replaced_after_its_share_of_calls(sandbox: Sandbox) -> None:
    pids = {sandbox.call("pid", deadline_s=30) for _ in range(5)}
    assert len(pids) == 2


def test_a_started_child_is_the_one_that_answers_until_it_has_done_its_share(sandbox: Sandbox) -> None:
    """Catches a child started for nothing, and a start that finds one that is about to be replaced."""
    sandbox.start()
    first = sandbox.pid
    sandbox.start()
    assert [sandbox.call("pid", deadline_s=30) for _ in range(3)] == [first] * 3
    sandbox.start()
    assert sandbox.pid not in (first, None)
    assert sandbox.call("pid", deadline_s=30) == sandbox.pid


def test_killing_the_parent_leaves_no_orphan(tmp_path: Path) -> None:
    """A child that outlived its driver would hold the video, the memory and the GPU."""
    code = (
        "import time; from infra.sandbox import Sandbox\n"
        f"box = Sandbox('{FACTORY}', {{}}, memory_limit_bytes=1 << 30)\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(box.call('pid', deadline_s=60)))\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT})
    pid_file = tmp_path / "pid"
    end = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    child = int(pid_file.read_text())
    assert psutil.pid_exists(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
