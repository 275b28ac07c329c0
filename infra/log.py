"""Logging, configured once in an entry point; library code only calls ``logging.getLogger(__name__)``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

PACKAGES = ("pipeline", "model", "flows", "infra")


def configure_logging(level: str | int = "INFO") -> None:
    """Send our packages' log lines to stderr as ``time level [rank] logger: message``.

    Ranks above 0 (environment variable RANK) are held at WARNING. Calling it again changes nothing twice.
    """
    rank = int(os.environ.get("RANK", "0"))
    place = f" [rank {rank}]" if "RANK" in os.environ else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s{place} %(name)s: %(message)s", "%H:%M:%S"))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel("WARNING" if rank else level)


def last_line(log: Path, since: int = 0) -> str:
    """Return the last line that a command has written into a log, empty where it wrote nothing.

    Args:
        log: its output, which may begin with that of earlier commands.
        since: bytes of those.
    """
    lines = log.read_bytes()[since:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
