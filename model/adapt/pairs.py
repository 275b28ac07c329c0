"""A picture of real clips and the fakes made of them: what the detector is asked to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from model.adapt.pixels import ClipPixels
from model.adapt.samples import Draw, Window

_COLUMNS = (0.0, 0.5, 1.0)
_TILE, _GAP, _HEAD = 160, 4, 24


def draw_pairs(pixels: ClipPixels, windows: Sequence[Window], path: Path) -> None:
    """Write a PNG: one row a window, three frames real, the same three fake, and their difference times four."""
    rows = []
    heads = ["real"] * 3 + ["fake"] * 3 + ["difference"]
    for window in windows:
        tiles = [tile for sample in pixels.samples(Draw(window, 0)) for tile in _frames(sample.frames_THWC)]
        difference = tiles[4].astype(np.int16) - tiles[1].astype(np.int16)
        tiles.append(np.clip(128 + 4 * difference, 0, 255).astype(np.uint8))
        rows.append(_joined(tiles, axis=1))
    head = np.full((_HEAD, rows[0].shape[1], 3), 255, np.uint8)
    for i, word in enumerate(heads):
        cv2.putText(
            head, word, (i * (_TILE + _GAP) + 4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA
        )
    picture = np.concatenate([head, _joined(rows, axis=0)])
    _, data = cv2.imencode(".png", picture[..., ::-1])
    path.write_bytes(data.tobytes())


def _frames(frames_THWC: np.ndarray) -> list[np.ndarray]:
    return [
        cv2.resize(frames_THWC[round(share * (len(frames_THWC) - 1))], (_TILE, _TILE), interpolation=cv2.INTER_AREA)
        for share in _COLUMNS
    ]


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Join pictures along ``axis`` with a white gap between them."""
    parts: list[np.ndarray] = []
    for picture in pictures:
        shape = list(picture.shape)
        shape[axis] = _GAP
        parts += [picture, np.full(shape, 255, np.uint8)]
    return np.concatenate(parts[:-1], axis=axis)
