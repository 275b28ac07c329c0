"""Single frames as bounded chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

CHUNK_BYTES = 16 << 20
"""A chunk holds no more than this or one frame: 8K frames are 100 MB each, and chunks that fit the cache are faster."""


def bounded_chunk(shape_HWC: tuple[int, ...], chunk: int) -> int:
    """Return how many frames of this shape a chunk may hold: ``chunk``, or fewer where they are large."""
    return max(1, min(chunk, CHUNK_BYTES // int(np.prod(shape_HWC))))


def chunked(frames: Iterable[np.ndarray], chunk: int) -> Iterator[np.ndarray]:
    """Stack uint8 RGB frames (H, W, 3) of one size to chunks (F, H, W, 3) of 1 to ``chunk`` frames."""
    held: list[np.ndarray] = []
    for frame_HWC in frames:
        held.append(frame_HWC)
        if len(held) >= bounded_chunk(frame_HWC.shape, chunk):
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)
