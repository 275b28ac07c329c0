"""Start a training module on several ranks, of one machine or many, with torchrun; say in one word how it ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path

from infra.lifeline import die_with

logger = logging.getLogger(__name__)

EXIT_FILE = "exit_status"
SAVING_S = 120
"""Seconds that ranks have, after a signal, to finish a step and save; then they are killed."""


class ExitStatus(IntEnum):
    """Why a launch ended. Ranks leave theirs in ``<run>/exit_status``, since torchrun itself only says 0 or 1."""

    DONE = 0
    FAILED = 1
    PREEMPTED = 2
    DIVERGED = 3
    OUT_OF_MEMORY = 4
    LOST_RANK = 5
    REFUSED = 6


@dataclass(frozen=True)
class Hosts:
    """Machines that start together: how many, ``host:port`` where they meet, and this one's number, from 0."""

    count: int
    rendezvous: str
    number: int


def launch(
    module: str,
    arguments: Sequence[str],
    *,
    world_size: int,
    run_dir: Path,
    env: Mapping[str, str] | None = None,
    max_restarts: int = 0,
    hosts: Hosts | None = None,
) -> ExitStatus:
    """Run ``python -m module arguments…`` on ``world_size`` ranks of this machine and wait.

    When a rank of any machine fails, torchrun ends all ranks and starts them again. The first SIGTERM or SIGINT is
    passed on, so that ranks can save, and waited for; the group dies with this process.

    Args:
        module: the entry point; it reads RANK and WORLD_SIZE from the environment.
        arguments: its arguments.
        world_size: ranks of this machine.
        run_dir: run folder; ranks may write ``exit_status`` there (``report_exit``).
        env: variables beside ours.
        max_restarts: how often all ranks are started again after one failed.
        hosts: None runs on this machine alone.
    """
    status_file = run_dir / EXIT_FILE
    if hosts is None or hosts.number == 0:
        status_file.unlink(missing_ok=True)
    environment = {
        "OMP_NUM_THREADS": str(threads_of(world_size)),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # without it restarts over gloo hang
        **os.environ,
        **(env or {}),
    }
    command = [
        sys.executable, "-m", "infra.torchrun", *_meeting(hosts, run_dir), f"--nproc-per-node={world_size}",
        f"--max-restarts={max_restarts}", f"--shutdown-timeout={SAVING_S}", "-m", module, *arguments,
    ]  # fmt: skip
    child = subprocess.Popen(
        command, env=environment, preexec_fn=partial(die_with, os.getpid()),
        start_new_session=True,  # Ctrl-C is for this process, which tells it
    )  # fmt: skip
    previous, passed_on = {}, []

    def pass_on(number: int, _: object) -> None:
        passed_on.append(number)
        if len(passed_on) == 1:
            child.send_signal(number)
        else:
            logger.warning("the ranks were told already; they finish a step and save, %d s at most", SAVING_S)

    if _is_main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, pass_on)
    try:
        code = child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return _status(code, status_file, stopped=bool(passed_on))


def threads_of(ranks: int) -> int:
    """Return how many threads each of so many ranks computes with: its share of the cores that this process may use."""
    return max(len(os.sched_getaffinity(0)) // ranks, 1)


def report_exit(run_dir: Path, status: ExitStatus) -> None:
    """Leave the reason for the end of this launch where ``launch`` reads it."""
    (run_dir / EXIT_FILE).write_text(status.name)


def _meeting(hosts: Hosts | None, run_dir: Path) -> list[str]:
    if hosts is None:
        return ["--standalone"]
    return [
        f"--nnodes={hosts.count}", "--rdzv-backend=c10d", f"--rdzv-endpoint={hosts.rendezvous}",
        f"--rdzv-id={run_dir.name}",
    ]  # fmt: skip


def _status(code: int, status_file: Path, stopped: bool) -> ExitStatus:
    if status_file.exists():
        name = status_file.read_text().strip()
        if name in ExitStatus.__members__:
            return ExitStatus[name]
    if code and stopped:  # before the ranks could listen; or one was killed while it saved, which looks the same
        return ExitStatus.PREEMPTED
    return ExitStatus.DONE if code == 0 else ExitStatus.LOST_RANK if code < 0 else ExitStatus.FAILED


def _is_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()
