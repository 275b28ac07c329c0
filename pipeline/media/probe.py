"""What a file says of itself, proven by decoding its first frame; the extension is not looked at."""

from __future__ import annotations

import io
import os
from fractions import Fraction

import av

from pipeline.media.cut import cut_info
from pipeline.media.frame_folder import probe_folder
from pipeline.places import frames_folder
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, VideoInfo

# Demuxers that may open a file. Left out on purpose: playlists (hls, concat, dash), which make libavformat read files
# and addresses named inside an untrusted one; still pictures; text art, which decodes as "video".
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,"
    "h264,hevc,m4v,mxf,rm,nut,ivf,dv,av1,obu"
)
_OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
FALLBACK_FPS = 25.0
"""Frames per second of a stream that states none (raw H.264), or an impossible number."""
MAX_FPS = 1000
_LEAST_BYTES_PER_S = 500
"""A video with fewer bytes for a second of its stated length lies about its length."""


def probe(path: str, max_pixels: int | None = None, cut: Cut | None = None) -> VideoInfo:
    """Read size, rate, rotation and stated length of the first real video stream, and decode one frame of it.

    Args:
        path: a local file, whose content decides and not its name; or ``frames:`` and a folder of JPEG frames.
        max_pixels: largest frame, in pixels (width x height), before any cut; None sets no limit.
        cut: the part of it that is meant; size and length are the part's.

    Returns:
        VideoInfo with display width and height. ``frames`` is what the container says or, where it says nothing, the
        duration times the rate (0 when unknown): a hint for progress and deadlines, never a count to rely on.

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
        width, height = stream.codec_context.width, stream.codec_context.height
        if max_pixels is not None and width * height > max_pixels:
            raise RejectError(RejectReason.TOO_LARGE, f"frames of {width}×{height} exceed {max_pixels} pixels")
        frame = _first_frame(container, stream)
        rotation = round(frame.rotation / 90) * 90 % 360
        width, height = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        fps = stream_fps(stream)
        frames = _stated_frames(container, stream, fps)
        return VideoInfo(width=width, height=height, fps=fps, frames=frames, rotation=rotation)


def check_readable(path: str) -> None:
    """Raise RejectError ``unreadable`` or ``empty`` for a file that cannot be read or holds nothing."""
    try:
        path.encode("utf-8")  # decoders take names as UTF-8
        with open(path, "rb") as file:
            first = file.read(1)
    except UnicodeEncodeError as error:
        raise RejectError(RejectReason.UNREADABLE, "its name is not valid UTF-8; rename it") from error
    except OSError as error:
        raise RejectError(RejectReason.UNREADABLE, f"it cannot be opened ({error.strerror})") from error
    if not first:
        raise RejectError(RejectReason.EMPTY, "it has no bytes")


def main_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the first video stream that is no album art; RejectError ``not_video`` without one."""
    stream = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
    if stream is None:
        raise RejectError(RejectReason.NOT_VIDEO, "it has no video stream")
    return stream


def open_media(file: str | io.BytesIO) -> av.container.InputContainer:
    """Open a path, or bytes, for reading. Titles and other tags may be in any encoding: nothing reads them.

    Raises:
        av.error.FFmpegError: it is none of FORMATS, or damaged.
    """
    name = local_name(file) if isinstance(file, str) else file
    return av.open(name, mode="r", options=_OPEN_OPTIONS, metadata_errors="replace")


def local_name(path: str) -> str:
    """Return ``path`` such that libavformat takes it as a file, whatever it contains (``concat:a|b.mp4``)."""
    return os.path.abspath(path)


def plain(error: Exception) -> str:
    """Return a decoder's message as one short line without file names."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:160]


def _is_cover(stream: av.VideoStream) -> bool:
    """True for album art in an audio file, which libavformat presents as a video stream of one picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame:
    stream.codec_context.thread_count = 1
    try:
        frame = next(container.decode(stream), None)
    except (av.error.FFmpegError, ValueError, RuntimeError) as error:
        raise RejectError(RejectReason.DECODE_FAILED, f"its first frame cannot be decoded ({plain(error)})") from error
    if frame is None:
        raise RejectError(RejectReason.DECODE_FAILED, "its video stream holds no frame")
    return frame


def stream_fps(stream: av.VideoStream) -> float:
    """Return the frames per second that a stream states, or 25."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate is not None and 0 < rate <= MAX_FPS:
            return float(rate)
    return FALLBACK_FPS


def _stated_frames(container: av.container.InputContainer, stream: av.VideoStream, fps: float) -> int:
    if stream.frames > 0:
        return int(stream.frames)
    if stream.duration and stream.time_base:
        return round(Fraction(stream.duration) * stream.time_base * Fraction(fps))
    return round((container.duration or 0) / av.time_base * fps)
