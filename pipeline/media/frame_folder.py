"""A folder of JPEG frames as a video: the same interface as that of a file."""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.media.chunks import chunked
from pipeline.media.cut import crop_to_box, frame_range
from pipeline.media.frame_names import FRAME_FPS, frame_entries
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, VideoInfo

MAX_FRAME_BYTES = 64 << 20
"""A larger file is no frame; 8K as JPEG takes a fifth of this."""
_ENTIRE = Cut()


class FolderFrames:
    """The frames of one folder in numeric order, as often as asked for, at 24 frames per second.

    The first frame that decodes gives the size. A frame that is damaged, too large, of another size or gone is left out
    and the next follows it, as with damaged packets of a file; a gap in the numbers likewise. Orientation tags are not
    applied: frames were taken from a video, which was upright.

    Attributes:
        names: file names of the frames that the last pass has yielded, by frame number.
        seconds: when each of them is shown, from the folder's start.
        is_damaged: whether that pass left frames out.
        losses: empty; what is left out is single frames, and the next follows.
    """

    def __init__(self, folder: str, cut: Cut | None = None) -> None:
        """Name the folder; nothing is opened yet."""
        self._folder, self._cut = folder, cut or _ENTIRE
        self._forget()

    def iter_chunks(self, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, frames_FHWC)`` as VideoFrames does.

        Raises:
            RejectError: ``unreadable``, ``empty``, or ``decode_failed`` when not one frame can be decoded.
        """
        paths = _frame_paths(self._folder)
        chosen = frame_range(self._cut, len(paths), FRAME_FPS)
        self._forget()
        position = 0
        for frames_FHWC in chunked(self._frames(paths, chosen), chunk):
            yield position, frames_FHWC
            position += len(frames_FHWC)
        if position == 0:
            raise RejectError(RejectReason.DECODE_FAILED, f"none of its {len(chosen)} frames can be decoded")

    def _forget(self) -> None:
        self.names: list[str] = []
        self.seconds: array[float] = array("d")
        self.is_damaged = False
        self.losses: set[int] = set()

    def _frames(self, paths: Sequence[str], chosen: range) -> Iterator[np.ndarray]:
        size: tuple[int, int] | None = None
        for number in chosen:
            image = _open(paths[number])
            fits = image is not None and image.size == (size or image.size)
            frame_HWC = _pixels(image) if image is not None and fits else None
            if image is None or frame_HWC is None:
                self.is_damaged = True
                continue
            size = image.size
            self.names.append(os.path.basename(paths[number]))
            self.seconds.append(number / FRAME_FPS)
            yield crop_to_box(frame_HWC, self._cut)


def probe_folder(folder: str, max_pixels: int | None = None) -> VideoInfo:
    """Read the size of the first frame that decodes, and count the frames.

    Raises:
        RejectError: ``unreadable``, ``empty``, ``too_large`` or ``decode_failed``.
    """
    paths = _frame_paths(folder)
    for path in paths:
        image = _open(path)
        if image is None:
            continue
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise RejectError(RejectReason.TOO_LARGE, f"frames of {width}×{height} exceed {max_pixels} pixels")
        if _pixels(image) is not None:
            return VideoInfo(width=width, height=height, fps=FRAME_FPS, frames=len(paths))
    raise RejectError(RejectReason.DECODE_FAILED, f"none of its {len(paths)} frames can be decoded")


def _frame_paths(folder: str) -> list[str]:
    try:
        paths = [entry.path for entry in frame_entries(folder)]
    except OSError as error:
        raise RejectError(RejectReason.UNREADABLE, f"its folder cannot be listed ({error.strerror})") from error
    if not paths:
        raise RejectError(RejectReason.EMPTY, "its folder holds no frame (<video>.<number>.jpg)")
    return paths


def _open(path: str) -> Image.Image | None:
    """Read a JPEG and its header; its pixels are decoded later, once its size is known to be bearable."""
    try:
        # Neither a link nor a pipe that has taken the frame's place since it was listed is followed or waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(MAX_FRAME_BYTES + 1)
        if len(data) > MAX_FRAME_BYTES:
            return None
        return Image.open(io.BytesIO(data), formats=("JPEG",))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError):
        return None


def _pixels(image: Image.Image) -> np.ndarray | None:
    """Decode to uint8 RGB (H, W, 3); None where data is missing, which OpenCV would paint grey."""
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None
