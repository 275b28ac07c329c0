"""What is left of processes that must have ended."""

from __future__ import annotations

import time
from collections.abc import Sequence

import psutil


def runs(pid: int) -> bool:
    """Whether it still runs; a zombie that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_of(processes: Sequence[psutil.Process], timeout_s: float = 60) -> list[psutil.Process]:
    """Return those that still run after ``timeout_s`` at most."""
    end = time.monotonic() + timeout_s
    while left := [process for process in processes if process.is_running() and runs(process.pid)]:
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return left
