"""Batches made in processes: for GPUs that take more clips than one interpreter can hand out.

Threads share an interpreter, which decoding leaves for most of the time but not for all: some hundreds of clips a
second and rank, however many cores. PyTorch's DataLoader has the processes, the shared memory and the pinning; what is
read stays a function of the positions alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from infra.errors import ProjectError
from model.data.batch import ClipBatch, ClipSample, collate


class Loads(Protocol):
    """What opens in each process."""

    def load(self, position: int) -> ClipSample:
        """Return the sample at ``position``."""
        ...


class _Opened(Dataset[ClipSample]):
    """Samples by position. Each process opens its own source: locks and connections do not travel."""

    def __init__(self, opens: Callable[[], Loads]) -> None:
        self._opens = opens
        self._source: Loads | None = None

    def __getitem__(self, position: int) -> ClipSample:
        if self._source is None:
            self._source = self._opens()
        return self._source.load(position)


def batches_of_processes(
    opens: Callable[[], Loads], shares: Iterable[range], *, processes: int, read_ahead: int, pin_memory: bool
) -> Iterator[ClipBatch]:
    """Yield the batch of each share of positions, in order. The global random state is left alone.

    The processes live as long as the calling thread, however that ends, and a signal to the caller's process group does
    not reach them: a rank that is told to stop may still need a batch to end its step and save.

    Args:
        opens: makes a source in a process; pickled, so a function of a module with its arguments.
        shares: positions of each batch, possibly without end.
        processes: how many; each makes whole batches.
        read_ahead: batches that each of them makes in advance.
        pin_memory: put batches where a GPU copies from fastest.

    Raises:
        ProjectError: what a source raised, in its own words; or a process died, or could not make a batch.
    """
    # spawn and not forkserver, whose server would stand between the rank and them and outlive a rank that is killed
    loader = DataLoader(
        _Opened(opens), batch_sampler=map(list, shares), num_workers=processes, collate_fn=collate,
        pin_memory=pin_memory, prefetch_factor=read_ahead, multiprocessing_context="spawn",
        worker_init_fn=_live_with_rank, generator=torch.Generator(),
    )  # fmt: skip
    try:
        yield from loader
    except ProjectError as error:  # DataLoader puts the traceback of the process before the sentence
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if lines[0].startswith("Caught"):  # DataLoader's first line; the last one is the cause
            raise ProjectError(f"a process that reads clips failed: {lines[-1]}") from error
        raise ProjectError(f"a process that reads clips ended ({lines[0]})") from error


def _live_with_rank(_: int) -> None:
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
