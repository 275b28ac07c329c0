"""A window worker whose decoder does to its process what the video's name says, since no real video does on demand."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from infra.errors import WeightsError
from model.video_windows import WindowSettings, WindowWorker
from pipeline.media.decode import VideoFrames

_decoded = VideoFrames.iter_chunks


def _hostile(self: VideoFrames, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    name, passes = Path(self._path).name, Path(f"{self._path}.passes")
    with passes.open("a") as file:
        file.write("x")
    for start, frames_FHWC in _decoded(self, chunk):
        yield start, frames_FHWC
        if "crash" in name:
            os.abort()
        if "hang" in name:
            time.sleep(600)
        if "swell" in name:
            swollen = bytearray(os.urandom(1 << 20)) * 900
            time.sleep(600)
            del swollen
        if "once" in name and start >= 64 and len(passes.read_text()) == 2:  # in the second pass, the first time
            os.abort()


class Worker(WindowWorker):
    """The real worker around that decoder."""


class NoDetector(WindowWorker):
    """A worker that lacks its weights."""

    def __init__(self, settings: WindowSettings) -> None:
        raise WeightsError("the detector's weights cannot be had; put them there")


VideoFrames.iter_chunks = _hostile  # type: ignore[method-assign]  # in the child process alone
