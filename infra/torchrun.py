"""torchrun without its tracebacks: ``python -m infra.torchrun`` takes what torchrun takes and ends as it ends.

A signal and a rank that failed are events of every long run, which ranks, torchrun's log and our command tell of in a
sentence each. torchrun also raises them, and forty lines of its own frames would bury those sentences.

A second signal breaks off torchrun's wait for ranks that save, so that it ends before them; here it is ignored. Whoever
ends a whole family of processes tells torchrun once by itself and once through the command that started it.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from infra.lifeline import TORCHRUN_PID

_raise = api._terminate_process_handler


def _end_once(number: int, frame: FrameType | None) -> None:
    """Have the ranks told of a signal, and be deaf to the next."""
    for later in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(later, signal.SIG_IGN)
    _raise(number, frame)


if __name__ == "__main__":
    api._terminate_process_handler = _end_once  # type: ignore[assignment]  # what it installs when ranks start
    os.environ[TORCHRUN_PID] = str(os.getpid())
    try:
        main()
    except SignalException as told:
        sys.exit(128 + told.sigval)
    except ChildFailedError:
        sys.exit(1)
