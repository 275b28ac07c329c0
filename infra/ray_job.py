"""Run a command on one machine of a Ray cluster, with its GPUs reserved; when that machine is lost, on another one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.errors import ConfigError
from infra.ray_session import ray_session


def run_module(
    module: str, arguments: Sequence[str], *, gpus: int, cpus: int, log: Path, retries: int
) -> tuple[int, str]:
    """Run ``python -m module arguments…`` as one task of the cluster at RAY_ADDRESS, in this folder, and wait.

    The cluster's machines have this code installed and see ``log`` and whatever ``arguments`` name. When this process
    ends early, the module receives SIGTERM, so that it can save.

    Args:
        module: importable there.
        arguments: its arguments.
        gpus: reserved on one machine, the only ones that the module sees.
        cpus: reserved likewise.
        log: file that all output is appended to.
        retries: how often the command is started again, elsewhere, when its machine is lost.

    Returns:
        Exit code and last line of output.

    Raises:
        ConfigError: no machine of the cluster has so many GPUs or CPUs, or no cluster answers.
    """
    import ray

    with ray_session():
        wanted = {"GPU": gpus, "CPU": cpus}
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(machine.get(name, 0) >= count for name, count in wanted.items()) for machine in machines):
            most = {name: int(max((machine.get(name, 0) for machine in machines), default=0)) for name in wanted}
            raise ConfigError(
                f"no machine of the Ray cluster has {gpus} GPUs and {cpus} CPUs (at most {most['GPU']} and "
                f"{most['CPU']}); lower launch.ray_gpus and world_size"
            )
        task = ray.remote(num_gpus=gpus, num_cpus=cpus, max_retries=retries)(_run)
        return ray.get(task.remote(module, list(arguments), os.getcwd(), str(log)))


def _run(module: str, arguments: list[str], folder: str, log: str) -> tuple[int, str]:
    """What the task does. The module dies with Ray's worker, which dies with the command that waits for it."""
    os.environ.pop("OMP_NUM_THREADS", None)  # Ray's own, for tasks that compute in its worker
    with Path(log).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder, stdout=output, stderr=output, preexec_fn=_die_with_worker,
        )  # fmt: skip
        code = process.wait()
    lines = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, lines[-1] if lines else ""


def _die_with_worker() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
