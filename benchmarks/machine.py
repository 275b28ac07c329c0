"""What the machine can do, measured beside the work that is judged by it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch

Clock = Literal["wall", "cpu"]
_SIDE, _PRODUCTS = 2048, 3


class Measured(NamedTuple):
    """Best seconds of each work, and the best matrix product of the same run in FLOP/s."""

    seconds: dict[str, float]
    peak: float


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int, clock: Clock) -> Measured:
    """Run every work in turn, ``rounds`` times after one to warm up, with matrix products before each.

    The best of each counts. In turn, because what else the machine does comes and goes: all sides get the same weather.
    ``clock`` ``cpu`` takes the process's CPU time over its threads in place of the time on the wall: for a busy
    machine, and only where a work keeps all threads busy.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    peak = 0.0
    for _ in range(rounds):
        for name, work in works.items():
            peak = max(peak, matmul_peak(clock))
            seconds[name].append(timed(work, clock))
    return Measured({name: min(values) for name, values in seconds.items()}, peak)


def matmul_peak(clock: Clock) -> float:
    """Return FLOP/s of the best of a few fp32 products of two 2048×2048 matrices, with the threads of the process."""
    a, b = torch.ones(_SIDE, _SIDE), torch.ones(_SIDE, _SIDE)
    out = torch.empty(_SIDE, _SIDE)
    return 2 * _SIDE**3 / min(timed(lambda: torch.mm(a, b, out=out), clock) for _ in range(_PRODUCTS))


def timed(work: Callable[[], object], clock: Clock) -> float:
    """Return the seconds that one call takes."""
    now = time.perf_counter if clock == "wall" else time.process_time
    start = now()
    work()
    return (now() - start) / (1 if clock == "wall" else torch.get_num_threads())


def describe(clock: Clock) -> str:
    """Return one line: cores, threads, load, clock."""
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads a side, load {load:.1f}, {clock} clock, "
        f"torch {torch.__version__}"
    )
