"""Which frames of a clip the network sees, and the region maps that belong to exactly those frames."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from infra.errors import ConfigError, DatasetError
from pipeline.dataset.format import REGION_CELLS, REGION_STRIDE
from pipeline.faces.regions import CELL, Region, coarsen

STORED_SIDE = REGION_CELLS * CELL
"""Pixels along one side of a stored crop."""
SIDE_SWAPS = ((Region.LEFT_BROW, Region.RIGHT_BROW), (Region.LEFT_EYE, Region.RIGHT_EYE))
"""Labels that trade places in a mirror."""


class WindowPlan(NamedTuple):
    """How windows are cut.

    frames: T, ``stride`` apart in the source. tubelet: frames of a token. image_size: side in pixels that the network
    sees. grid_side: patches along it.
    """

    frames: int
    stride: int
    tubelet: int
    image_size: int
    grid_side: int

    @property
    def span(self) -> int:
        """Frames of the source that a window reaches over."""
        return (self.frames - 1) * self.stride + 1

    def check(self) -> None:
        """Refuse shapes for which region maps and patches do not line up.

        Raises:
            ConfigError: what does not fit, and the cure.
        """
        if self.tubelet * self.stride % REGION_STRIDE:
            raise ConfigError(
                f"tubelets of {self.tubelet} frames at stride {self.stride} do not start on stored region maps; "
                f"tubelet × stride must be a multiple of {REGION_STRIDE}"
            )
        if STORED_SIDE % self.image_size or REGION_CELLS % self.grid_side:
            raise ConfigError(
                f"image_size {self.image_size} with {self.grid_side}×{self.grid_side} patches does not fit stored "
                f"crops of {STORED_SIDE} pixels and {REGION_CELLS}×{REGION_CELLS} region cells; take image_size 224 or "
                "112 with patch_size 8 or 16 (224 also with 32)"
            )

    def check_clips(self, least_frames: int) -> None:
        """Refuse a window that is longer than the shortest clip may be: a rank would die of the first such clip.

        Args:
            least_frames: frames that every clip has.

        Raises:
            ConfigError: what does not fit, and the cure.
        """
        if self.span > least_frames:
            most = (least_frames - 1) // self.stride + 1
            raise ConfigError(
                f"{self.frames} frames at stride {self.stride} reach over {self.span} frames of a clip, and clips fit "
                f"for pretraining may have only {least_frames}; take model.overrides.frames {most} or less"
            )

    def starts(self, clip_frames: int) -> int:
        """Return how many windows fit a clip; window i starts at frame 4i, where a region map lies.

        Raises:
            DatasetError: the clip is shorter than one window.
        """
        room = clip_frames - self.span
        if room < 0:
            raise DatasetError(f"a clip of {clip_frames} frames is shorter than a window of {self.span}; it is unfit")
        return room // REGION_STRIDE + 1

    def frame_indices(self, window: int) -> list[int]:
        """Return the T frames of window ``window``."""
        start = window * REGION_STRIDE
        return list(range(start, start + self.span, self.stride))

    def region_bits(self, regions_RHW: np.ndarray, window: int) -> np.ndarray:
        """Return the maps of each tubelet's first frame on the token grid.

        Args:
            regions_RHW: uint16 (R, 28, 28), entry r is frame 4r.
            window: index of the window.

        Returns:
            uint16 (T / tubelet, grid_side, grid_side); a patch holds every region that any of its cells holds.
        """
        step = self.tubelet * self.stride // REGION_STRIDE
        tubelets = self.frames // self.tubelet
        maps = regions_RHW[window : window + step * tubelets : step]
        if len(maps) != tubelets:
            raise DatasetError(f"{len(regions_RHW)} region maps do not reach to the end of window {window}")
        return coarsen(maps, REGION_CELLS // self.grid_side)


def mirror_frames(frames_THWC: np.ndarray) -> np.ndarray:
    """Mirror frames left to right, uint8 (T, H, W, 3); a strided copy by NumPy takes ten times as long."""
    mirrored = np.empty_like(frames_THWC)
    for frame_HWC, into_HWC in zip(frames_THWC, mirrored, strict=True):
        cv2.flip(frame_HWC, 1, dst=into_HWC)
    return mirrored


def mirror_regions(bits_THW: np.ndarray) -> np.ndarray:
    """Mirror region maps left to right; the person's left becomes right, so paired labels trade places."""
    mirrored = bits_THW[..., ::-1]
    result = mirrored.copy()
    for left, right in SIDE_SWAPS:
        pair = np.uint16(1 << left | 1 << right)
        swapped = ((mirrored >> left & 1) << right) | ((mirrored >> right & 1) << left)
        result = (result & ~pair) | swapped.astype(np.uint16)
    return result
