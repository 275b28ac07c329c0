"""What the loader hands to training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor


class ClipSample(NamedTuple):
    """One network input and where it comes from.

    clip_THWC: uint8 RGB. is_masked_L: bool, True = hidden. regions_Thw: uint16 region sets on the token grid, what the
    mask was made from. first_frame: of the window, counted in the clip.
    """

    clip_THWC: Tensor
    is_masked_L: Tensor
    regions_Thw: np.ndarray
    key: str
    first_frame: int


class LoaderState(TypedDict):
    """Where a run stands in its data: all that is needed to go on, for any number of ranks and workers."""

    version: int
    seed: int
    clips_seen: int


class ClipBatch(NamedTuple):
    """clip_BTHWC uint8 RGB; is_masked_BL bool, True = hidden, as many in every row; keys of the B clips."""

    clip_BTHWC: Tensor
    is_masked_BL: Tensor
    keys: tuple[str, ...]

    def split(self, size: int) -> list[ClipBatch]:
        """Cut into micro-batches of ``size`` clips, in order."""
        return [
            ClipBatch(self.clip_BTHWC[i : i + size], self.is_masked_BL[i : i + size], self.keys[i : i + size])
            for i in range(0, len(self.keys), size)
        ]

    def to(self, device: torch.device) -> ClipBatch:
        """Move the tensors, asynchronously where memory is pinned."""
        return ClipBatch(
            self.clip_BTHWC.to(device, non_blocking=True), self.is_masked_BL.to(device, non_blocking=True), self.keys
        )


def collate(samples: Sequence[ClipSample]) -> ClipBatch:
    """Stack samples; clips stay uint8."""
    return ClipBatch(
        torch.stack([sample.clip_THWC for sample in samples]),
        torch.stack([sample.is_masked_L for sample in samples]),
        tuple(sample.key for sample in samples),
    )
