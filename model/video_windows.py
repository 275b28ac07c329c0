"""The windows of one video for ``Marlin.extract_video``, read as a stream with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from infra.errors import MediaError
from model.window import plan_windows

Cropper = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB frame (H, W, 3) in, uint8 (side, side, 3) out; called in time order."""

CHUNK_FRAMES = 16


def read_windows(
    path: str, crop: Cropper, *, frames: int, sample_rate: int, stride: int, keep_tail: bool
) -> Iterator[np.ndarray]:
    """Yield each window as uint8 RGB (T, side, side, 3), in time order.

    The video is decoded twice: what its container says of its length is not to be relied on. Only frames that a window
    uses are cropped, and only those of open windows are held.

    Raises:
        MediaError: it cannot be decoded, or ``crop`` refuses a frame.
    """
    from pipeline.media.decode import VideoFrames

    video = VideoFrames(path)
    length = sum(len(frames_FHWC) for _, frames_FHWC in video.iter_chunks(CHUNK_FRAMES))
    waiting = deque(plan_windows(length, frames=frames, sample_rate=sample_rate, stride=stride, keep_tail=keep_tail))
    wanted = {index for window in waiting for index in window}
    held: dict[int, np.ndarray] = {}
    for start, frames_FHWC in video.iter_chunks(CHUNK_FRAMES):
        for index, frame_HWC in enumerate(frames_FHWC, start):
            if index in wanted:
                held[index] = crop(frame_HWC)
            while waiting and waiting[0][-1] <= index:
                yield np.stack([held[i] for i in waiting.popleft()])
                oldest = waiting[0][0] if waiting else length
                held = {i: kept for i, kept in held.items() if i >= oldest}
        if not waiting:
            return


def uncropped(side: int) -> Cropper:
    """Return a cropper that takes frames of ``side`` × ``side`` as they are and refuses others."""

    def check(frame_HWC: np.ndarray) -> np.ndarray:
        height, width = frame_HWC.shape[:2]
        if (height, width) != (side, side):
            raise MediaError(f"frames are {width}×{height}, not {side}×{side}; pass crop_face=True or crop them first")
        return frame_HWC.copy()

    return check


def face_cropper(side: int) -> Cropper:
    """Return a cropper to the best face of each frame: the square around the box's centre, as wide as its longer side.

    A frame without a face takes the last square; before the first face that is refused, since there is none to take.
    """
    from pipeline.config import EmbeddedFaces
    from pipeline.faces.backend import build_detector
    from pipeline.faces.crop import crop_square

    detector = build_detector(EmbeddedFaces())
    square_4: np.ndarray | None = None

    def crop(frame_HWC: np.ndarray) -> np.ndarray:
        nonlocal square_4
        found = detector.detect(frame_HWC[None])[0]
        if len(found.scores_N):
            box_4 = found.boxes_N4[found.scores_N.argmax()]
            centre_2, half = (box_4[:2] + box_4[2:]) / 2, (box_4[2:] - box_4[:2]).max() / 2
            square_4 = np.concatenate([centre_2 - half, centre_2 + half])
        if square_4 is None:
            raise MediaError("no face in the first frame that a window uses; cut the video to start with the face")
        return crop_square(frame_HWC, square_4, side)

    return crop
