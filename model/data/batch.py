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
    mask was made from. first_frame: of the window, counted in the clip. is_target_L: bool, the hidden tokens that are
    predicted; None means all of them.
    """

    clip_THWC: Tensor
    is_masked_L: Tensor
    regions_Thw: np.ndarray
    key: str
    first_frame: int
    is_target_L: Tensor | None = None


class LoaderState(TypedDict):
    """Where a run stands in its data: all that is needed to go on, for any number of ranks and workers."""

    version: int
    seed: int
    clips_seen: int


class ClipBatch(NamedTuple):
    """clip_BTHWC uint8 RGB; is_masked_BL bool, True = hidden, as many in every row; keys of the B clips.

    is_target_BL: bool, the hidden tokens that are predicted, as many in every row; None means all of them.
    """

    clip_BTHWC: Tensor
    is_masked_BL: Tensor
    keys: tuple[str, ...]
    is_target_BL: Tensor | None = None

    def split(self, size: int) -> list[ClipBatch]:
        """Cut into micro-batches of ``size`` clips, in order."""
        parts = [slice(i, i + size) for i in range(0, len(self.keys), size)]
        return [
            ClipBatch(
                self.clip_BTHWC[part],
                self.is_masked_BL[part],
                self.keys[part],
                None if self.is_target_BL is None else self.is_target_BL[part],
            )
            for part in parts
        ]

    def to(self, device: torch.device) -> ClipBatch:
        """Move the tensors, asynchronously where memory is pinned."""
        return ClipBatch(
            self.clip_BTHWC.to(device, non_blocking=True),
            self.is_masked_BL.to(device, non_blocking=True),
            self.keys,
            None if self.is_target_BL is None else self.is_target_BL.to(device, non_blocking=True),
        )


def collate(samples: Sequence[ClipSample], clips_BTHWC: Tensor | None = None) -> ClipBatch:
    """Stack samples; clips stay uint8. ``clips_BTHWC``: their clips, where somebody has stacked them already."""
    targets = [sample.is_target_L for sample in samples if sample.is_target_L is not None]
    return ClipBatch(
        torch.stack([sample.clip_THWC for sample in samples]) if clips_BTHWC is None else clips_BTHWC,
        torch.stack([sample.is_masked_L for sample in samples]),
        tuple(sample.key for sample in samples),
        torch.stack(targets) if targets else None,
    )
