"""A picture of what each masking strategy hides of a clip, for reports."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from model.data.batch import ClipSample
from model.masking import STRATEGIES, make_mask
from model.nets.config import ModelConfig
from model.train_config import MaskStrategy

SHADE = 0.2
"""Brightness that hidden patches keep."""
TILE = 112
"""Side of one frame, in pixels."""
LABEL = 150
"""Width of the column of names, in pixels."""
_ORIGINAL = "clip"


def draw_masks(
    sample: ClipSample,
    shape: ModelConfig,
    ratio: float,
    *,
    seed: int = 0,
    strategies: Sequence[MaskStrategy] = STRATEGIES,
) -> bytes:
    """Return a PNG: the first frame of each tubelet in time order; below it, row by row, what each strategy hides.

    Args:
        sample: a clip and its region sets, as ``ClipSource.load`` returns them.
        shape: the network for which the clip was cut.
        ratio: share of hidden tokens.
        seed: of the masks.
        strategies: one row each, named at its left.

    Raises:
        ValueError: see ``make_mask``.
    """
    frames_tHWC = sample.clip_THWC[:: shape.tubelet].numpy()
    rows = [_row(_ORIGINAL, frames_tHWC)]
    bits_1thw = torch.from_numpy(sample.regions_Thw.astype(np.int32))[None]
    for strategy in strategies:
        is_masked_BL = make_mask(strategy, bits_1thw, shape.grid, ratio, torch.tensor([seed]))
        rows.append(_row(strategy, shaded(frames_tHWC, is_masked_BL[0].reshape(shape.grid).numpy())))
    picture = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", picture)[1].tobytes()


def shaded(frames_tHWC: np.ndarray, is_masked_thw: np.ndarray) -> np.ndarray:
    """Return the frames, uint8 RGB, with hidden patches darkened."""
    patch = frames_tHWC.shape[1] // is_masked_thw.shape[1]
    hidden_tHW1 = is_masked_thw.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]
    darkened: np.ndarray = np.where(hidden_tHW1, (frames_tHWC * SHADE).astype(np.uint8), frames_tHWC)
    return darkened


def _row(name: str, frames_tHWC: np.ndarray) -> np.ndarray:
    label_HWC = np.full((TILE, LABEL, 3), 255, np.uint8)
    cv2.putText(label_HWC, name, (4, TILE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    tiles = [cv2.resize(frame, (TILE, TILE), interpolation=cv2.INTER_AREA) for frame in frames_tHWC]
    row: np.ndarray = np.concatenate([label_HWC, *tiles], axis=1)
    return row
