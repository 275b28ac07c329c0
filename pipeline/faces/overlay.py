"""Region maps laid over crops, for people."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.faces.regions import GROUPS, Region

COLOURS: dict[str, tuple[int, int, int]] = {
    "left eye": (64, 156, 255),
    "right eye": (0, 214, 198),
    "nose": (255, 196, 61),
    "mouth": (240, 70, 110),
    "hair": (164, 110, 255),
    "skin": (120, 210, 120),
    "background": (70, 76, 92),
}
"""RGB of each masking group; fixed, so that pictures of different runs compare."""
OPACITY = {"background": 0.25, "skin": 0.30}
"""Components are laid on more strongly than what surrounds them."""
COMPONENT_OPACITY = 0.6

_GROUP_OF = {region: name for name, regions in GROUPS.items() for region in regions}
# Where a cell holds several labels, the rarer one shows: components before skin before background.
_PRECEDENCE = [Region.BACKGROUND, Region.SKIN, Region.HAIR, *(r for r in Region if Region.SKIN < r < Region.HAIR)]


def overlay_regions(crop_HWC: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Colour a crop by its regions.

    Args:
        crop_HWC: uint8 RGB (H, W, 3).
        regions: a label map, uint8 (H, W), or cell sets, uint16 (h, w) as ``to_bits`` makes them; in a cell with
            several labels a component goes before skin and skin before background.

    Returns:
        uint8 RGB (H, W, 3), a new picture.
    """
    labels_HW = _labels(regions) if regions.dtype == np.uint16 else regions
    height, width = crop_HWC.shape[:2]
    labels_HW = cv2.resize(labels_HW.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    colour_L3 = np.array([COLOURS[_GROUP_OF[region]] for region in Region], np.float32)
    alpha_L = np.array([OPACITY.get(_GROUP_OF[region], COMPONENT_OPACITY) for region in Region], np.float32)
    alpha_HW1 = alpha_L[labels_HW][..., None]
    return np.round(crop_HWC * (1 - alpha_HW1) + colour_L3[labels_HW] * alpha_HW1).astype(np.uint8)


def _labels(bits_hw: np.ndarray) -> np.ndarray:
    """Pick one label per cell, the one that takes precedence."""
    labels_hw = np.zeros(bits_hw.shape, np.uint8)
    for region in _PRECEDENCE:
        labels_hw[(bits_hw >> np.uint16(region)) & 1 > 0] = region
    return labels_hw
