"""What a window is shown as: as it is stored, or beside something made of it whose label is known."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from model.adapt.samples import Window
from model.adapt.self_blend import has_face, self_blend
from model.adapt.task import Target


class Variants(Protocol):
    """Samples made of one window; ``name`` is part of what decides features, ``count`` how many they are."""

    name: str
    count: int

    def targets(self, window: Window) -> tuple[Target, ...]:
        """Return the target of each sample: known before a pixel is read."""
        ...

    def usable(self, regions_Rhw: np.ndarray) -> bool:
        """Tell whether samples can be made of a clip with these region maps."""
        ...

    def frames(self, frames_THWC: np.ndarray, regions_Rhw: np.ndarray, window: Window, seed: int) -> list[np.ndarray]:
        """Return the frames of each sample, uint8 (T, H, W, 3)."""
        ...


class AsStored:
    """The window itself, with its clip's target."""

    name, count = "labels", 1

    def targets(self, window: Window) -> tuple[Target, ...]:
        """See Variants."""
        if window.clip.target is None:
            raise ValueError(f"clip {window.clip.key} has no target")
        return (window.clip.target,)

    def usable(self, regions_Rhw: np.ndarray) -> bool:
        """See Variants."""
        return True

    def frames(self, frames_THWC: np.ndarray, regions_Rhw: np.ndarray, window: Window, seed: int) -> list[np.ndarray]:
        """See Variants."""
        return [frames_THWC]


class SelfBlended:
    """A real clip and a fake blended of itself (``model.adapt.self_blend``), in this order."""

    name, count = "self_blend", 2

    def targets(self, window: Window) -> tuple[Target, ...]:
        """See Variants."""
        return (0.0,), (1.0,)

    def usable(self, regions_Rhw: np.ndarray) -> bool:
        """See Variants."""
        return has_face(regions_Rhw)

    def frames(self, frames_THWC: np.ndarray, regions_Rhw: np.ndarray, window: Window, seed: int) -> list[np.ndarray]:
        """See Variants."""
        pair = self_blend(frames_THWC, regions_Rhw, seed, window.indices)
        return [pair.real_THWC, pair.fake_THWC]
