"""From a stored clip to its region map: every fourth frame, labelled and packed into cells."""

from __future__ import annotations

import numpy as np

from pipeline.dataset.format import REGION_STRIDE
from pipeline.faces.backend import RegionParser
from pipeline.faces.regions import to_bits
from pipeline.media.decode import decode_clip
from pipeline.rows import ClipMeta


def parse_clip(mp4: bytes, meta: ClipMeta, parser: RegionParser) -> np.ndarray:
    """Parse every fourth frame of a clip, beginning with its first.

    Args:
        mp4: the encoded clip; the same pixels that training will see are parsed.
        meta: its metadata; landmarks and crop path are in source pixels, one row a frame.
        parser: labels the pixels.

    Returns:
        uint16 (ceil(F / 4), 28, 28); entry r is frame 4r, bit b of a cell says that LaPa label b occurs there.

    Raises:
        RejectError: ``decode_failed`` when the clip's bytes are damaged.
    """
    indices = range(0, meta.frames, REGION_STRIDE)
    crops_RHWC = decode_clip(mp4, indices)
    landmarks_R52 = landmarks_in_crop(
        np.array(meta.landmarks, np.float64)[indices], np.array(meta.crops, np.float64)[indices], crops_RHWC.shape[1]
    )
    return to_bits(parser.parse(crops_RHWC, landmarks_R52))


def landmarks_in_crop(landmarks_R52: np.ndarray, crops_R4: np.ndarray, size: int) -> np.ndarray:
    """Map landmarks from source pixels into square crops of ``size`` pixels: float32 (R, 5, 2).

    Coordinates name places on the picture's plane, whose first pixel spans 0 to 1, in both.
    """
    side_R11 = (crops_R4[:, 2] - crops_R4[:, 0])[:, None, None]
    return ((landmarks_R52 - crops_R4[:, None, :2]) * (size / side_R11)).astype(np.float32)
