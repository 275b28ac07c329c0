"""Processes that stay when the command that started them ends: found again, not started twice, ended whole."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.errors import ProjectError

POLL_S = 0.2
GRACE_S = 20.0
"""Seconds from SIGTERM to what follows it: SIGTERM for the children that are left, and then SIGKILL."""


@dataclass(frozen=True)
class Part:
    """One process to keep running.

    ``ready`` tells whether it serves; None takes being alive for it. ``limit_s`` is how long that may take.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] | None = None
    limit_s: float = 120.0


class Keeper:
    """Starts and ends parts; a folder remembers them (``<name>.json``) and has their logs (``<name>.log``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def running(self, name: str) -> psutil.Process | None:
        """Return the process of a part, None where it has ended: a number that another process has now is not it."""
        try:
            told = json.loads((self._folder / f"{name}.json").read_text())
            process = psutil.Process(int(told["pid"]))
            lives = process.create_time() == told["created"] and process.status() != psutil.STATUS_ZOMBIE
            return process if lives else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def ensure(self, part: Part) -> bool:
        """Start a part unless it runs, and wait until it is ready; return whether it was started.

        Raises:
            ProjectError: it ended, or was not ready in time; it is not left half started.
        """
        process, started = self.running(part.name), False
        if process is None:
            process, started = self._start(part), True
        end = time.monotonic() + part.limit_s
        while part.ready is not None and not part.ready():
            if self.running(part.name) is None or time.monotonic() > end:
                self.end(part.name)
                raise ProjectError(f"{part.name} does not start; {self._folder / part.name}.log tells why")
            time.sleep(POLL_S)
        if self.running(part.name) is None:
            raise ProjectError(f"{part.name} ended at once; {self._folder / part.name}.log tells why")
        return started

    def end(self, name: str) -> bool:
        """End a part and all its children, in order and then by force; return whether it ran."""
        process = self.running(name)
        if process is not None:
            family = [process, *process.children(recursive=True)]
            alive = _told(psutil.Process.terminate, [process], family)
            alive = _told(psutil.Process.terminate, alive, alive)  # flow runs that their worker left: training saves
            _told(psutil.Process.kill, alive, alive)
        (self._folder / f"{name}.json").unlink(missing_ok=True)
        return process is not None

    def _start(self, part: Part) -> psutil.Process:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{part.name}.log").open("ab") as log:
            child = subprocess.Popen(
                part.command, env={**os.environ, **part.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        process = psutil.Process(child.pid)
        told = json.dumps({"pid": process.pid, "created": process.create_time()})
        (self._folder / f"{part.name}.json").write_text(told)
        return process


def _told(
    order: Callable[[psutil.Process], None], targets: Sequence[psutil.Process], family: Sequence[psutil.Process]
) -> list[psutil.Process]:
    """Give an order to some processes, wait, and return which of the family are left."""
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            order(target)
    _, alive = psutil.wait_procs(family, timeout=GRACE_S)
    return alive
