"""One way to the frames of every video: a file, a folder of frames, or a part of either."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pipeline.media.decode import CutFrames, VideoFrames
from pipeline.media.frame_folder import FolderFrames
from pipeline.places import frames_folder
from pipeline.rows import Cut


class Frames(Protocol):
    """The frames of one video, in order, as often as asked for; every pass yields the same.

    Attributes:
        seconds: when each frame that the last pass has yielded is shown, from the start of the file (or folder).
        is_damaged: whether that pass lost frames to damage.
        losses: of those frames, by number, the ones before which damage took a stretch of others; their count where it
            took the end. Complete for the frames that have been yielded.
    """

    seconds: array[float]
    is_damaged: bool
    losses: set[int]

    def iter_chunks(self, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, frames_FHWC)``: uint8 RGB, consecutive from 0, 1 to ``chunk`` frames (fewer if large).

        Raises:
            RejectError: ``empty``, ``unreadable``, or ``decode_failed`` when not one frame can be decoded.
        """


def open_frames(path: str, cut: Cut | None = None) -> Frames:
    """Return the frames of a local path or ``frames:`` folder; with a cut, those inside it, numbered from 0."""
    folder = frames_folder(path)
    if folder is not None:
        return FolderFrames(folder, cut)
    return VideoFrames(path) if cut is None else CutFrames(path, cut)
