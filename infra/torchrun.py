"""torchrun without its tracebacks: ``python -m infra.torchrun`` takes what torchrun takes and ends as it ends.

A signal and a rank that failed are events of every long run, which ranks, torchrun's log and our command tell of in a
sentence each. torchrun also raises them, and forty lines of its own frames would bury those sentences.
"""

from __future__ import annotations

import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

from infra.lifeline import TORCHRUN_PID

if __name__ == "__main__":
    os.environ[TORCHRUN_PID] = str(os.getpid())
    try:
        main()
    except SignalException as told:
        sys.exit(128 + told.sigval)
    except ChildFailedError:
        sys.exit(1)
