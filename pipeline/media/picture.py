"""A decoded frame as people are meant to see it: turned, mirrored, with square pixels, as large as the first one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import av
import numpy as np
from av.buffer import Buffer
from av.video.reformatter import VideoReformatter

MAX_PIXEL_ASPECT = 4
"""A pixel that claims to be wider, or higher, than this many times its other side lies, and counts as square."""
NEARLY_SQUARE = 0.01
"""Pixels this little off square stay as they are: the picture would lose more by being resampled."""


class Orientation(NamedTuple):
    """How a stored picture is shown: mirrored left to right if so asked, then turned counterclockwise by quarters."""

    is_mirrored: bool = False
    turns: int = 0

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Read the frame's display matrix, rounded to one of the eight orientations; upright without one."""
        try:
            stated = cast(Mapping[str, Buffer], frame.side_data)["DISPLAYMATRIX"]
        except KeyError:
            return cls()
        except ValueError:  # the frame has side data of a kind that PyAV does not know, and it then gives none
            return cls(turns=round(frame.rotation / 90) % 4)
        # A pixel (x, y) is shown at (ax + cy, bx + dy); y points down.
        a, b, _, c, d = (int(number) for number in np.frombuffer(bytes(stated), np.int32, count=5))
        is_mirrored = a * d < b * c
        if is_mirrored:
            a, b = -a, -b
        return cls(is_mirrored, round(-math.atan2(b, a) / (math.pi / 2)) % 4)

    def shown(self, image_HWC: np.ndarray) -> np.ndarray:
        """Return the image as it is shown; itself where it is stored so."""
        if self == Orientation():
            return image_HWC
        return np.ascontiguousarray(np.rot90(image_HWC[:, ::-1] if self.is_mirrored else image_HWC, self.turns))


class Upright:
    """Makes the frames of one stream RGB (H, W, 3), as they are shown; the first one's size is that of all.

    A later frame of another shape keeps it, and gets black bars.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        """Take the shape of the stream's pixels."""
        self._pixel_aspect = _pixel_aspect(stream)
        self._size: tuple[int, int] | None = None
        self._to_rgb = VideoReformatter()  # one for all frames: each frame's own would start its threads anew

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Return the width and height at which a frame is shown."""
        return self._size_shown(frame, Orientation.of(frame))

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Return the frame as uint8 RGB."""
        orientation = Orientation.of(frame)
        width, height = self._size_shown(frame, orientation)
        self._size = all_width, all_height = self._size or (width, height)
        scale = min(all_width / width, all_height / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        stored = (height, width) if orientation.turns % 2 else (width, height)
        image_HWC = orientation.shown(self._to_rgb.reformat(frame, *stored, "rgb24", threads=1).to_ndarray())
        return image_HWC if (width, height) == self._size else _with_bars(image_HWC, all_width, all_height)

    def _size_shown(self, frame: av.VideoFrame, orientation: Orientation) -> tuple[int, int]:
        width, height = max(1, round(frame.width * self._pixel_aspect)), frame.height
        return (height, width) if orientation.turns % 2 else (width, height)


def _with_bars(image_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    high, wide = image_HWC.shape[:2]
    top, left = (height - high) // 2, (width - wide) // 2
    return np.pad(image_HWC, ((top, height - high - top), (left, width - wide - left), (0, 0)))


def _pixel_aspect(stream: av.VideoStream) -> float:
    """Width of a pixel by its height; 1 where nothing credible is stated."""
    stated = stream.sample_aspect_ratio
    if not stated or abs(stated - 1) <= NEARLY_SQUARE or not 1 / MAX_PIXEL_ASPECT <= stated <= MAX_PIXEL_ASPECT:
        return 1.0
    return float(stated)
