"""Decoded clips kept in memory, up to a number of bytes: a small dataset is decoded once instead of every epoch."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import NamedTuple

import numpy as np


class DecodedClip(NamedTuple):
    """All frames of a clip as the network sees them, uint8 RGB (F, S, S, 3), and its region maps and key."""

    frames_FHWC: np.ndarray
    regions_RHW: np.ndarray
    key: str


class ClipCache:
    """The clips used last, by unit and row. Threads may share one; two that miss the same clip both decode it."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes, self._held = capacity_bytes, 0
        self._clips: OrderedDict[tuple[str, int], DecodedClip] = OrderedDict()
        self._lock = Lock()

    def get(self, unit: str, row: int) -> DecodedClip | None:
        """Return a clip that is held, None otherwise."""
        with self._lock:
            clip = self._clips.get((unit, row))
            if clip is not None:
                self._clips.move_to_end((unit, row))
            return clip

    def put(self, unit: str, row: int, clip: DecodedClip) -> None:
        """Hold a clip, letting go of those used longest ago; one that is larger than the whole cache is not held."""
        size = clip.frames_FHWC.nbytes
        with self._lock:
            if size > self.capacity_bytes or (unit, row) in self._clips:
                return
            self._clips[unit, row] = clip
            self._held += size
            while self._held > self.capacity_bytes:
                _, oldest = self._clips.popitem(last=False)
                self._held -= oldest.frames_FHWC.nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames that are held."""
        return self._held
