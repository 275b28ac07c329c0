"""What a file says of itself, proven by decoding its first frame; the extension is not looked at."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction

import av
import numpy as np

from pipeline.media.cut import cut_info
from pipeline.media.frame_folder import probe_folder
from pipeline.media.picture import Orientation, Upright
from pipeline.media.stream import (
    MAX_FPS,
    check_readable,
    decodable,
    local_name,
    main_stream,
    open_media,
    plain,
    presumed_fps,
    stated_fps,
)
from pipeline.places import frames_folder
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, VideoInfo

MAX_COUNTED = 1 << 20
"""Packets that are counted where no length is stated: ten hours, a second or two of work."""
RATE_PACKETS = 500
"""Packets whose times tell the rate where the length is stated and the rate is not."""
MOST_REORDERED = 16
"""Frames that are stored late, at most: where reading stops, so many of the last times may have holes between them."""
LONGEST_STEP = 10
"""Steps between frames longer than this many usual ones are pauses and no part of the rate."""
_LEAST_BYTES_PER_S = 500
"""A video with fewer bytes for a second of its stated length lies about its length."""


def probe(path: str, max_pixels: int | None = None, cut: Cut | None = None) -> VideoInfo:
    """Read size, rate, rotation and length of the first real video stream, and decode one frame of it.

    Args:
        path: a local file, whose content decides and not its name; or ``frames:`` and a folder of JPEG frames.
        max_pixels: largest frame, in pixels (width x height), before any cut; None sets no limit.
        cut: the part of it that is meant; size and length are the part's.

    Returns:
        VideoInfo with display width and height. ``frames`` is what the container says, or the duration times the rate,
        or, where it says neither, the number of packets: a hint for progress and deadlines, never a count to rely on.

    Raises:
        RejectError: ``empty``, ``unreadable``, ``not_video``, ``too_large`` or ``decode_failed``.
    """
    folder = frames_folder(path)
    info = _probe_file(path, max_pixels) if folder is None else probe_folder(folder, max_pixels)
    return info if cut is None else cut_info(info, cut)


def believed_seconds(path: str, max_pixels: int) -> float:
    """Length as stated, bounded by what the file's size can hold; 0 where probing fails (decoding will say why)."""
    try:
        info = probe(path, max_pixels)
    except RejectError:
        return 0.0
    stated = info.frames / info.fps if info.fps > 0 else 0.0
    if frames_folder(path) is not None:  # each frame was counted, none was only stated
        return stated
    return min(stated, os.stat(local_name(path)).st_size / _LEAST_BYTES_PER_S)


def _probe_file(path: str, max_pixels: int | None) -> VideoInfo:
    check_readable(path)
    try:
        container = open_media(path)
    except av.error.FFmpegError as error:
        raise RejectError(RejectReason.NOT_VIDEO, f"no known video container ({plain(error)})") from error
    with container:
        stream = main_stream(container)
        _check_size(stream.codec_context.width, stream.codec_context.height, max_pixels)
        frame = next(decodable(container, stream), None)
        if frame is None:
            raise RejectError(RejectReason.DECODE_FAILED, "not one frame can be decoded")
        width, height = Upright(stream).size(frame)
        _check_size(width, height, max_pixels)
        fps = stated_fps(stream)
        presumed = presumed_fps(stream)
        frames = _stated_frames(container, stream, fps or presumed)
        rotation = Orientation.of(frame).turns * 90
    if fps is None or not frames:
        count, rate = _counted(path, RATE_PACKETS if frames else MAX_COUNTED)
        fps, frames = fps or rate or presumed, frames or count
    return VideoInfo(width=width, height=height, fps=fps, frames=frames, rotation=rotation)


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise RejectError(RejectReason.TOO_LARGE, f"frames of {width}×{height} exceed {max_pixels} pixels")


def _stated_frames(container: av.container.InputContainer, stream: av.VideoStream, fps: float) -> int:
    if stream.frames > 0:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return round(Fraction(stream.duration) * stream.time_base * Fraction(fps))
    return round((container.duration or 0) / av.time_base * fps)


def _counted(path: str, limit: int) -> tuple[int, float | None]:
    """Read up to ``limit`` packets without decoding: return their number, and their rate where they tell times."""
    packets, count, times = 0, 0, []
    with open_media(path) as container:
        stream = main_stream(container)
        try:
            for packet in itertools.islice(container.demux(stream), limit):
                packets += 1
                count += packet.size > 0
                if packet.size and packet.pts is not None:
                    times.append(float(packet.pts))
        except av.error.FFmpegError:
            pass  # a damaged container ends there
        tick = stream.time_base or Fraction(1)
    shown = np.unique(times)
    steps = np.diff(shown if packets < limit else shown[:-MOST_REORDERED])
    if not len(steps):
        return count, None
    step = steps[steps <= LONGEST_STEP * np.median(steps)].mean() * tick.numerator
    fps = float(tick.denominator / step)
    return count, fps if fps <= MAX_FPS else None
