"""Batches made in processes: for GPUs that take more clips than one interpreter can hand out.

Threads share an interpreter, which decoding leaves for most of the time but not for all: some hundreds of clips a
second and rank, however many cores. PyTorch's DataLoader has the processes, the shared memory and the pinning; what is
read stays a function of the positions alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from typing import Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from infra.errors import ProjectError
from infra.lifeline import die_with
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
        worker_init_fn=partial(_live_with, os.getpid()), generator=torch.Generator(),
    )  # fmt: skip
    resource_tracker.ensure_running()  # which would let SIGTERM in as it starts
    try:
        with _unheard(signal.SIGTERM):
            readers = iter(loader)
        yield from readers
    except ProjectError as error:  # DataLoader puts the traceback of the process before the sentence
        raise type(error)(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if lines[0].startswith("Caught"):  # DataLoader's first line; the last one is the cause
            raise ProjectError(f"a process that reads clips failed: {lines[-1]}") from error
        raise ProjectError(f"a process that reads clips ended ({lines[0]})") from error


@contextlib.contextmanager
def _unheard(order: signal.Signals) -> Iterator[None]:
    """Hold ``order`` back from this thread, and from children that it starts until they let it in."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {order})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _live_with(rank: int, _: int) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # forgets one that came to the rank's group before the line above
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    die_with(rank, signal.SIGKILL)
