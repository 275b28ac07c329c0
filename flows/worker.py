"""``python -m flows.worker COMMAND…``: a worker whose flow runs save and end when its container is stopped.

A worker of Prefect that is told to end tells its flow runs and ends within seconds, and its container too: a training
that still saves is killed. Where SIGINT is ignored it waits for its flow runs instead, and tells them nothing.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import psutil

from flows.processes import POLL_S, end_family
from infra.log import configure_logging


def main(command: Sequence[str]) -> int:
    """Run a command until it ends; at SIGTERM or SIGINT end it with all that it does, as ``marlin down`` does."""
    told: list[int] = []

    def tell(number: int, frame: Any) -> None:
        told.append(number)

    configure_logging()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    worker = psutil.Popen(command)
    while not told and worker.poll() is None:
        time.sleep(POLL_S)
    if not told:
        return int(worker.returncode)
    end_family("the worker", worker)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
