"""Frames as a video for people: H.264 that plays everywhere, written as they come."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 90_000
"""Ticks a second, MPEG's own: frames of the usual rates are whole ticks apart, or one off."""
LONGEST_PAUSE_S = 60.0
"""Between two frames; what a file claims beyond it is left out. mp4 cannot say more than some hours."""
OPTIONS = {"crf": "20", "preset": "veryfast"}


def write_video(path: Path, frames: Iterable[tuple[float, np.ndarray]], fps: float) -> int:
    """Write an mp4 without sound and return its number of frames; two frames and x264's few are in memory at a time.

    Args:
        path: the file; its name needs no ending.
        frames: at least one, with the seconds at which each is shown, so that a rate that varies is kept (pauses up to
            ``LONGEST_PAUSE_S``): uint8 RGB (H, W, 3), of one size. The first one is shown at 0. An odd side gets one
            row or column more, a copy of the last: H.264 as players know it halves colour.
        fps: frames a second, on average.

    Raises:
        av.error.FFmpegError: the encoder refuses the frames' size.
    """
    written = 0
    with av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(CLOCK), options=OPTIONS)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, CLOCK)
        first, before, last = 0.0, 0.0, -1
        for seconds, image_HWC in frames:
            height, width = image_HWC.shape[:2]
            if not written:
                first = before = seconds
                stream.width, stream.height = width + width % 2, height + height % 2
            even_HWC = np.pad(image_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            first += max(seconds - before - LONGEST_PAUSE_S, 0.0)
            before = seconds
            frame = av.VideoFrame.from_ndarray(even_HWC, format="rgb24")
            frame.pts = last = max(round((seconds - first) * CLOCK), last + 1)  # some files repeat a time
            frame.time_base = stream.time_base
            container.mux(stream.encode(frame))
            written += 1
        container.mux(stream.encode())
    return written
