"""Run commands on machines of a Ray cluster, each with its GPUs reserved; when its machine is lost, on another one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import IO

from infra.errors import ConfigError, ProjectError
from infra.lifeline import die_with
from infra.log import last_line
from infra.ray_session import ray_session

FORMER_S = 180
"""Seconds that a command started again waits for what is left of its former self, which may still be saving."""
STOPPED = "it was stopped with the command that waited for it; the same command goes on"


class RayMachines:
    """Machines of a Ray cluster, on each of which commands have ``gpus`` and ``cpus`` for themselves; for threads, too.

    Made by ``ray_machines``. When it is left, or this process ends, what still runs receives SIGTERM, so that it can
    save, and nothing more is started.
    """

    def __init__(self, gpus: int, cpus: int, retries: int) -> None:
        self._gpus, self._cpus, self._retries = gpus, cpus, retries
        self._lock = threading.Lock()
        self._outcomes: list[Future[tuple[int, str]]] = []
        self._is_left = False

    def run(self, module: str, arguments: Sequence[str], *, log: Path) -> tuple[int, str]:
        """Run ``python -m module arguments…`` in this folder on a machine that has room, now or later; wait for it.

        The machines have this code installed and see this folder, ``log``, and whatever ``arguments`` name.

        Args:
            module: importable there; it sees the GPUs that are reserved for it and no others.
            arguments: its arguments.
            log: file that all output is appended to.

        Returns:
            Exit code and last line of output.

        Raises:
            ProjectError: the cluster gave up: machines were lost too often, or nothing can be started on them.
        """
        import ray

        with self._lock:  # a call after the end would have Ray attach anew by itself
            if self._is_left:
                raise ProjectError(STOPPED)
            task = ray.remote(num_gpus=self._gpus, num_cpus=self._cpus, max_retries=self._retries)(_run)
            outcome = task.remote(module, list(arguments), os.getcwd(), str(log.absolute())).future()
            self._outcomes.append(outcome)
        try:
            return outcome.result()  # ray.get may never return once another thread has shut Ray down
        except CancelledError:
            raise ProjectError(STOPPED) from None
        except ray.exceptions.RayError as error:
            first = str(getattr(error, "cause", None) or error).strip().partition("\n")[0]
            raise ProjectError(f"the Ray cluster gave up on it: {first} (its output is in {log})") from error

    def leave(self) -> None:
        """Start nothing more, and let go of those who wait."""
        with self._lock:
            self._is_left = True
        for outcome in self._outcomes:
            outcome.cancel()


@contextlib.contextmanager
def ray_machines(*, gpus: int, cpus: int, retries: int) -> Iterator[RayMachines]:
    """Attach to the cluster at RAY_ADDRESS, for as many commands as wanted.

    Args:
        gpus: reserved for each command, all on one machine.
        cpus: reserved likewise.
        retries: how often a command is started again, elsewhere, when its machine is lost.

    Raises:
        ConfigError: no machine of the cluster has so many GPUs or CPUs, or no cluster answers.
    """
    with ray_session():
        _check_machines(gpus, cpus)
        machines = RayMachines(gpus, cpus, retries)
        try:
            yield machines
        finally:
            machines.leave()


def _check_machines(gpus: int, cpus: int) -> None:
    import ray

    wanted = {"GPU": gpus, "CPU": cpus}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= count for name, count in wanted.items()) for machine in machines):
        most = {name: int(max((machine.get(name, 0) for machine in machines), default=0)) for name in wanted}
        raise ConfigError(
            f"no machine of the Ray cluster has {gpus} GPUs and {cpus} CPUs (at most {most['GPU']} and "
            f"{most['CPU']}); ask for less: launch.ray_gpus, and world_size of a pretraining or launch.cpus of tables"
        )


def _run(module: str, arguments: list[str], folder: str, log: str) -> tuple[int, str]:
    """What the task does. The module dies with Ray's worker, which dies with the command that waits for it."""
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own, for tasks that compute in its worker
    with Path(log).open("ab") as output:
        _wait_for_former(output)
        former = output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder, stdout=output, stderr=output, preexec_fn=partial(die_with, os.getpid()),
        )  # fmt: skip
        code = process.wait()
    return code, last_line(Path(log), former)


def _wait_for_former(output: IO[bytes]) -> None:
    """Take the log's lock, which lives as long as any process that writes to this open file.

    A machine that is lost to Ray need not be dead: its command may be saving in the folder that this one goes on with.
    """
    end = time.monotonic() + FORMER_S
    while time.monotonic() < end:
        try:
            return fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(1)
        except OSError:  # a file system without locks, where nothing can be known
            return None
    return None
