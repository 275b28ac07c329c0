"""Batches for one rank, read ahead by threads or processes; resumable to the clip.

Threads unless asked otherwise: decoding and tar reads release the interpreter lock, nothing needs to be pickled, and no
worker can outlive its rank. What a step sees depends on neither their kind, nor their number, nor their speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from infra.errors import CheckpointError
from model.data.batch import ClipBatch, ClipSample, LoaderState, collate
from model.data.order import assign
from model.data.processes import Loads, batches_of_processes
from pipeline.dataset.reader import DatasetReader


class SampleSource(Protocol):
    """Samples by position in an endless stream; ``model.data.source.ClipSource`` is pretraining's."""

    reader: DatasetReader
    seed: int

    def load(self, position: int) -> ClipSample:
        """Return the sample at ``position``; called by several threads."""
        ...


class _Share:
    """A batch in the making. The threads put clips into one tensor, so that the training thread copies nothing.

    Args:
        clips: how many.
        pin: put them where a GPU copies from fastest.
    """

    def __init__(self, clips: int, pin: bool) -> None:
        self._count, self._pin, self._lock = clips, pin, Lock()
        self.clips_BTHWC: Tensor | None = None
        self.futures: list[Future[ClipSample]] = []

    def fill(self, place: int, sample: ClipSample) -> ClipSample:
        """Take the sample's clip in and return the sample with the clip where it lies now."""
        with self._lock:
            if self.clips_BTHWC is None:
                shape = (self._count, *sample.clip_THWC.shape)
                self.clips_BTHWC = torch.empty(shape, dtype=sample.clip_THWC.dtype, pin_memory=self._pin)
        self.clips_BTHWC[place] = sample.clip_THWC
        return sample._replace(clip_THWC=self.clips_BTHWC[place])


class ClipLoader:
    """An endless iterator over this rank's share of each global batch.

    Args:
        source: samples by position.
        batch: clips of a global batch; ``world`` divides it.
        rank: of this process.
        world: number of ranks.
        workers: threads, or processes.
        read_ahead: batches made in advance, by each process where there are some.
        pin_memory: put batches where a GPU copies from fastest.
        opens: makes the same source in another process; None reads in threads.
    """

    def __init__(
        self,
        source: SampleSource,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        read_ahead: int = 2,
        pin_memory: bool = False,
        opens: Callable[[], Loads] | None = None,
    ) -> None:
        self._source, self._batch, self._rank, self._world = source, batch, rank, world
        self._read_ahead, self._pin = read_ahead, pin_memory
        self._step = 0
        self._pending: deque[_Share] = deque()
        self._workers, self._opens = workers, opens
        self._stream: Iterator[ClipBatch] | None = None
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clip")
        assign(0, rank, world, batch)  # refuses a batch that does not divide, before any work

    def __iter__(self) -> Iterator[ClipBatch]:
        return self

    def __next__(self) -> ClipBatch:
        """Return this rank's share of the next global batch, waiting for it if need be.

        Raises:
            ProjectError: a clip could not be read or decoded.
        """
        batch = self._from_threads() if self._opens is None else self._from_processes(self._opens)
        self._step += 1
        return batch

    def _from_threads(self) -> ClipBatch:
        while len(self._pending) <= self._read_ahead:
            positions = self._positions(self._step + len(self._pending))
            share = _Share(len(positions), self._pin)
            share.futures = [self._pool.submit(self._load, share, *place) for place in enumerate(positions)]
            self._pending.append(share)
        share = self._pending.popleft()
        return collate([future.result() for future in share.futures], share.clips_BTHWC)

    def _from_processes(self, opens: Callable[[], Loads]) -> ClipBatch:
        if self._stream is None:
            self._stream = batches_of_processes(
                opens, map(self._positions, count(self._step)), processes=self._workers, read_ahead=self._read_ahead,
                pin_memory=self._pin,
            )  # fmt: skip
        return next(self._stream)

    def _positions(self, step: int) -> range:
        return assign(step, self._rank, self._world, self._batch)

    def state_dict(self) -> LoaderState:
        """Return where the run stands. Clips read ahead and not yet handed out do not count as seen."""
        return {
            "version": self._source.reader.version.version,
            "seed": self._source.seed,
            "clips_seen": self._step * self._batch,
        }

    def load_state_dict(self, state: LoaderState) -> None:
        """Go on where ``state`` was taken.

        Raises:
            CheckpointError: it belongs to another version, seed or batch size, so the order would differ.
        """
        own = self.state_dict()
        for name in ("version", "seed"):
            if state[name] != own[name]:
                raise CheckpointError(
                    f"the checkpoint was reading with {name} {state[name]}, this run has {own[name]}; "
                    "resume with the settings of the run, or start a new run folder"
                )
        steps, rest = divmod(state["clips_seen"], self._batch)
        if rest:
            raise CheckpointError(
                f"{state['clips_seen']} clips seen is no multiple of the global batch {self._batch}; "
                "resume with the run's own global_batch"
            )
        self._drop_pending()
        self._step = steps

    def close(self) -> None:
        """Stop the threads, or the processes."""
        self._drop_pending()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, share: _Share, place: int, position: int) -> ClipSample:
        return share.fill(place, self._source.load(position))

    def _drop_pending(self) -> None:
        self._stream = None  # its processes end with it
        while self._pending:
            for future in self._pending.popleft().futures:
                future.cancel()
