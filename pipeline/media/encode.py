"""Clips as H.264: small, cheap to open at a random frame, and the same bytes each time."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np

from pipeline.config import ClipConfig

TIME_BASE_LIMIT = 1001 * 240
"""Largest denominator of a stored frame rate: 24000/1001 and all its kin are exact."""
LEAST_FPS = 1.0
"""Slower clips are stored at this rate, since a frame an hour overflows mp4's clock; the metadata has the true one."""


def encode_clip(frames_FHWC: np.ndarray, fps: float, cfg: ClipConfig) -> bytes:
    """Encode frames as one H.264 stream in mp4.

    Args:
        frames_FHWC: uint8 RGB (F, H, W, 3), F ≥ 1, H and W even.
        fps: frames per second; stored exactly for the usual rates. A variable-rate source is stored at its mean.
        cfg: quality, preset, B-frames and key-frame distance.

    Returns:
        The file. Same frames, same settings, same library: same bytes (one thread, no time stamps of today, no scene
        cuts moving the key frames, no lookahead: x264's reads memory that it never wrote, so its choices depend on what
        lay there). Tuned for the true pixels and not for the eye: the network learns from what is there.
    """
    if frames_FHWC.ndim != 4 or frames_FHWC.dtype != np.uint8 or not len(frames_FHWC):
        raise ValueError(f"a clip is uint8 (F, H, W, 3) with F ≥ 1, not {frames_FHWC.dtype} {frames_FHWC.shape}")
    _, height, width, _ = frames_FHWC.shape
    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(max(fps, LEAST_FPS)).limit_denominator(TIME_BASE_LIMIT))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(cfg.crf),
            "preset": cfg.preset,
            "tune": "psnr",
            "x264-params": f"keyint={cfg.key_frame_interval}:min-keyint={cfg.key_frame_interval}:scenecut=0"
            f":bframes={cfg.b_frames}:b-adapt=0:weightp=0:rc-lookahead=0:mbtree=0:threads=1:lookahead-threads=1:sliced-threads=0",
            "flags": "+bitexact",
        }
        for image_HWC in frames_FHWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
