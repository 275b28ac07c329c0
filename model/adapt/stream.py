"""Samples of a task as the loader asks for them: by position in an endless stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
import torch

from model.adapt.pixels import ClipPixels, Sample
from model.adapt.samples import Draw, Window
from model.adapt.task import Target
from model.data.batch import ClipSample
from model.data.order import ClipOrder

HELD = 64
"""Windows whose samples are kept until all of them were asked for."""


class SampleStream:
    """Training samples in an order that is a function of the seed alone; threads may share one.

    The samples of one window follow one another, so a made fake and its real are in one batch (of even size). Every
    epoch draws anew what is made of a window; draw 0 is left to validation and test.

    Args:
        pixels: gives samples.
        windows: of the training side.
        seed: of the order.
    """

    def __init__(self, pixels: ClipPixels, windows: Sequence[Window], seed: int) -> None:
        self.reader, self.seed = pixels.reader, seed
        self._pixels, self._windows, self._per = pixels, windows, pixels.variants.count
        self._order = ClipOrder([len(windows)], seed)
        self._made: OrderedDict[Draw, Future[list[Sample]]] = OrderedDict()
        self._lock = Lock()

    @property
    def samples(self) -> int:
        """Samples of one epoch."""
        return len(self._windows) * self._per

    def targets(self) -> dict[str, Target]:
        """Return the target of every sample by its key."""
        return {
            _key(window, i): target
            for window in self._windows
            for i, target in enumerate(self._pixels.variants.targets(window))
        }

    def load(self, position: int) -> ClipSample:
        """Return the sample at ``position``: nothing is hidden of it, and its key leads to its target.

        Raises:
            ProjectError: the clip cannot be read or decoded.
        """
        address = self._order[position // self._per]
        window, variant = self._windows[address.clip], position % self._per
        frames_THWC = self._samples(Draw(window, address.epoch + 1))[variant].frames_THWC
        nothing = torch.zeros(0, dtype=torch.bool)
        regions = np.zeros((0, 0, 0), np.uint16)
        return ClipSample(torch.from_numpy(frames_THWC), nothing, regions, _key(window, variant), window.indices[0])

    def _samples(self, draw: Draw) -> list[Sample]:
        """Samples of a draw, made once though several threads ask for them."""
        if self._per == 1:
            return self._pixels.samples(draw)
        with self._lock:
            future = self._made.get(draw)
            is_mine = future is None
            if future is None:
                future = self._made[draw] = Future()
                if len(self._made) > HELD:
                    self._made.popitem(last=False)
        if is_mine:
            try:
                future.set_result(self._pixels.samples(draw))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def _key(window: Window, variant: int) -> str:
    return f"{window.id}+{window.indices[-1]}#{variant}"
