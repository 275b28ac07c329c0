"""Children that do not outlive who started them, however that ends (Linux: PR_SET_PDEATHSIG)."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
TORCHRUN_PID = "MARLIN_TORCHRUN_PID"


def die_with(parent: int, order: signal.Signals = signal.SIGTERM) -> None:
    """Have ``order`` sent to the calling process when the thread that started it ends; at once if it already has.

    The kernel tells only of an end that comes after this call: without the look at who its parent is now, a child that
    was slow to begin would stay for good.

    Args:
        parent: process id of who started this one; 0 if that is not known, and then it is taken to live.
        order: what is sent.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, order)
    if parent and os.getppid() != parent:
        os.kill(os.getpid(), order)


def die_with_torchrun() -> None:
    """Have SIGTERM sent to this rank when the ``infra.torchrun`` that started it ends."""
    die_with(int(os.environ.get(TORCHRUN_PID, "0")))
