"""Near copies among the clips of a video: a perceptual hash of a few small grey frames, compared bit by bit.

Only within a video: a fake of FaceForensics++ is a near copy of its original (0.06 of the bits), and both are wanted.
Equal files are known by their digests.
"""

from __future__ import annotations

import cv2
import numpy as np

HASH_FRAMES = 4
"""Frames of a clip that are hashed, spread evenly."""
HASH_SIDE = 16
"""Each frame is reduced to so many rows of one more grey pixels; a bit says whether a pixel is brighter than its right
neighbour (difference hash)."""


def clip_hash(crops_FHWC: np.ndarray) -> np.ndarray:
    """Return the hash of a clip, uint8 (128,): 1024 bits that re-encoding, scaling and brightness hardly change.

    Args:
        crops_FHWC: uint8 RGB (F, H, W, 3), F ≥ 1.
    """
    rows = np.linspace(0, len(crops_FHWC) - 1, HASH_FRAMES).round().astype(int)
    small = [
        cv2.resize(
            cv2.cvtColor(crops_FHWC[row], cv2.COLOR_RGB2GRAY), (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA
        )
        for row in rows
    ]
    grey_Fhw = np.stack(small).astype(np.int16)
    return np.packbits(grey_Fhw[:, :, :-1] > grey_Fhw[:, :, 1:])


class SeenClips:
    """The hashes of the clips kept so far; 128 bytes a clip."""

    def __init__(self, threshold: float) -> None:
        """``threshold`` is the share of differing bits, in [0, 1], up to which two clips are copies; 0 keeps all."""
        self._most_bits = threshold * HASH_FRAMES * HASH_SIDE**2
        self._hashes: list[np.ndarray] = []

    def is_copy(self, crops_FHWC: np.ndarray) -> bool:
        """Whether a kept clip is nearly the same; a clip that is none is kept from now on."""
        if not self._most_bits:
            return False
        fresh = clip_hash(crops_FHWC)
        if self._hashes:
            differing = np.bitwise_count(np.stack(self._hashes) ^ fresh).sum(axis=1)
            if differing.min() <= self._most_bits:
                return True
        self._hashes.append(fresh)
        return False
