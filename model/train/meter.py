"""Where the time of the steps went: speed, waiting, arithmetic, memory."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

PEAK_SECONDS = 0.3
"""How long the matrix product is repeated that measures a device; the fastest repetition counts."""


@dataclass
class Meter:
    """Adds up steps between two readings. What lies between steps (validation, saving) is not counted.

    Args:
        device: of this rank.
        clips: of a global batch.
        clip_flops: arithmetic of one clip, in FLOPs.
        peak: what all devices can do together, in FLOP/s.
    """

    device: torch.device
    clips: int
    clip_flops: float
    peak: float
    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, seconds: float, waited: float) -> None:
        """Count one step that took ``seconds``, of which this rank waited ``waited`` for its clips."""
        self.steps += 1
        self.seconds += seconds
        self.waited += waited

    def read(self) -> dict[str, float]:
        """Return the numbers of the steps since the last reading, of the slowest rank, and begin again. Collective."""
        worst = torch.tensor([self.seconds, self.waited, peak_memory(self.device)], dtype=torch.float64)
        worst = worst.to(self.device)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        seconds, waited, memory = worst.tolist()
        clips = self.steps * self.clips
        achieved = clips * self.clip_flops / seconds
        values = {
            "data/clips(1/s)": clips / seconds,
            "time/step(s)": seconds / self.steps,
            "time/data_wait(%)": 100 * waited / seconds,
            "speed/achieved(TFLOP/s)": achieved / 1e12,
            "speed/mfu(%)": 100 * achieved / self.peak,
            "memory/peak(GiB)": memory / 2**30,
        }
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return values


def total_peak(device: torch.device, dtype: torch.dtype, given_tflops: float | None) -> float:
    """Return what all ranks' devices can do together, in FLOP/s: given for one of them, or measured. Collective."""
    dist.barrier()  # ranks that share a machine are measured as they will work: at the same time
    mine = given_tflops * 1e12 if given_tflops else measure_peak(device, dtype)
    total = torch.tensor([mine], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total.item())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that a large square matrix product reaches on this device with this process's threads."""
    size = 8192 if device.type == "cuda" else 1024
    factor = torch.rand(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_memory(device: torch.device) -> float:
    """Return the most bytes that this process has held: on the GPU where it uses one, else in main memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
