"""What is left of processes that must have ended."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def runs(pid: int) -> bool:
    """Whether it still runs; a zombie that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_of(processes: Iterable[psutil.Process], timeout_s: float = 60) -> list[psutil.Process]:
    """Return those that still run after ``timeout_s`` at most."""
    _, alive = psutil.wait_procs(list(processes), timeout=timeout_s)
    return [process for process in alive if process.is_running() and runs(process.pid)]
