"""Facial regions: LaPa's eleven labels, the groups that are masked together, and the compact map that is stored."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

CELL = 8
"""Side of a cell of the stored region map, in pixels of the 224x224 crop."""


class Region(IntEnum):
    """LaPa's labels. Left and right are the person's."""

    BACKGROUND = 0
    SKIN = 1
    LEFT_BROW = 2
    RIGHT_BROW = 3
    LEFT_EYE = 4
    RIGHT_EYE = 5
    NOSE = 6
    UPPER_LIP = 7
    INNER_MOUTH = 8
    LOWER_LIP = 9
    HAIR = 10


GROUPS: dict[str, tuple[Region, ...]] = {
    "left eye": (Region.LEFT_BROW, Region.LEFT_EYE),
    "right eye": (Region.RIGHT_BROW, Region.RIGHT_EYE),
    "nose": (Region.NOSE,),
    "mouth": (Region.UPPER_LIP, Region.INNER_MOUTH, Region.LOWER_LIP),
    "hair": (Region.HAIR,),
    "skin": (Region.SKIN,),
    "background": (Region.BACKGROUND,),
}
"""Labels that are hidden together, as in the released code: five components, then skin and background."""


def to_bits(label_maps_RHW: np.ndarray) -> np.ndarray:
    """Turn label maps into cell sets: bit b of a cell is set when label b occurs in that 8x8-pixel patch.

    Args:
        label_maps_RHW: uint8 (R, H, W), values 0..10, H and W multiples of 8.

    Returns:
        uint16 (R, H/8, W/8); every cell has at least one bit.

    Raises:
        ValueError: wrong type or size, or a label above 10.
    """
    if label_maps_RHW.ndim != 3 or label_maps_RHW.dtype != np.uint8:
        raise ValueError(f"label maps are uint8 (R, H, W), not {label_maps_RHW.dtype} {label_maps_RHW.shape}")
    maps, height, width = label_maps_RHW.shape
    if height % CELL or width % CELL:
        raise ValueError(f"label maps of {height}×{width} do not divide into {CELL}×{CELL} cells")
    if label_maps_RHW.size and label_maps_RHW.max() > max(Region):
        raise ValueError(f"label {label_maps_RHW.max()} is not one of LaPa's 0 to {max(Region)}")
    bits_RHW = (np.uint16(1) << np.arange(len(Region), dtype=np.uint16))[label_maps_RHW]
    # (R, H, W) → (R, rows, 8, columns, 8), and OR over each cell
    return np.bitwise_or.reduce(bits_RHW.reshape(maps, height // CELL, CELL, width // CELL, CELL), axis=(2, 4))


def coarsen(bits_RHW: np.ndarray, factor: int) -> np.ndarray:
    """OR ``factor`` x ``factor`` cells into one: the exact map of a patch that is ``factor`` times larger.

    Args:
        bits_RHW: uint16 (..., H, W), as ``to_bits`` makes it.
        factor: patch side over the cell side; must divide H and W.

    Returns:
        uint16 (..., H/factor, W/factor).

    Raises:
        ValueError: ``factor`` does not divide the map.
    """
    *rest, height, width = bits_RHW.shape
    if factor < 1 or height % factor or width % factor:
        raise ValueError(f"a region map of {height}×{width} cells cannot be coarsened by {factor}")
    cells = bits_RHW.reshape(*rest, height // factor, factor, width // factor, factor)
    return np.bitwise_or.reduce(cells, axis=(-3, -1))
