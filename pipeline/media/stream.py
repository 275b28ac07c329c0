"""The video stream of a file that nobody vouches for: opened, chosen, decoded past damage."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

import av

from pipeline.rejects import RejectError
from pipeline.rows import RejectReason

# Demuxers that may open a file. Left out on purpose: playlists (hls, concat, dash), which make libavformat read files
# and addresses named inside an untrusted one; still pictures; text art, which decodes as "video".
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,"
    "h264,hevc,m4v,mxf,rm,nut,ivf,dv,av1,obu"
)
_OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
FALLBACK_FPS = 25.0
"""Frames per second of a stream that states none and tells no times, or an impossible number."""
MAX_FPS = 1000
MAX_CLOCK_FPS = 240
"""A clock that ticks no faster may be that of the frames; those that are none tick 600 times a second and more."""
RESTART_S = 1.0
"""A frame shown this long before what was lost is no late one: time stamps have begun anew."""
PATIENCE = 300
"""Packets that are waited for a key frame behind damage: encoders put one at least every 250 frames, unless they put
none (a single one at the start, or a picture that is refreshed strip by strip, whole again long before)."""


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


def main_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the first video stream that has a decoder and is no album art, set to decode on one thread.

    Raises:
        RejectError: ``not_video`` where there is no video stream, ``decode_failed`` where none has a decoder.
    """
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise RejectError(RejectReason.NOT_VIDEO, "it has no video stream")
    stream = next((stream for stream in streams if stream.codec_context is not None), None)
    if stream is None:
        raise RejectError(RejectReason.DECODE_FAILED, "no decoder is known for the codec of its video stream")
    stream.codec_context.thread_count = 1
    return stream


def start_s(container: av.container.InputContainer) -> float:
    """Return the time stamp at which a file begins: pictures, sound and cuts are all counted from there, in seconds."""
    return float((container.start_time or 0) / av.time_base)


def stated_fps(stream: av.VideoStream) -> float | None:
    """Return the frames per second that a stream states; None where it states none that can be believed.

    One frame per tick of its clock is the clock's rate. libavformat's guesses are not asked: they are rates at which
    every frame falls on a tick, 1000 for a WebM that states none, or 120 for one whose frames jitter.
    """
    rate = stream.average_rate
    believed = rate is not None and 0 < rate <= MAX_FPS and rate * (stream.time_base or 0) != 1
    return float(rate) if rate is not None and believed else None


def presumed_fps(stream: av.VideoStream) -> float:
    """Return the frames per second of a stream that states no credible rate, where its frames cannot be asked."""
    rate = stream.average_rate
    return float(rate) if rate is not None and 0 < rate <= MAX_CLOCK_FPS else FALLBACK_FPS


def decodable(
    container: av.container.InputContainer, stream: av.VideoStream, on_damage: Callable[[], None] = lambda: None
) -> Iterator[av.VideoFrame]:
    """Decode packet by packet; yield the frames that rest on nothing that the decoder reports as lost.

    A damaged packet costs the frames up to the next key frame, since those between are smears and no flag says so.
    Where none comes within PATIENCE packets, decoding goes on with what is there. A damaged container ends the stream.
    ``on_damage`` is called at each loss, before the first frame behind it is yielded.
    """
    packets = container.demux(stream)
    waited: int | None = None  # packets since the last loss; None while nothing is lost
    lost: int | None = None  # when what was lost would have been shown
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            on_damage()
            return
        waited = None if waited is None else waited + 1
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            waited, lost, frames = 0, packet.pts, []
            on_damage()
        for frame in frames:
            if frame.is_corrupt:
                waited, lost = 0, frame.pts
                on_damage()
            elif waited is not None and (_mends(frame, lost) or waited > PATIENCE):
                waited = None
            if waited is None:
                yield frame


def _mends(frame: av.VideoFrame, lost: int | None) -> bool:
    """True for a key frame behind the loss, by its time: one that the decoder held back may be from before it."""
    if not frame.key_frame or frame.pts is None or lost is None:
        return frame.key_frame
    return frame.pts > lost or (lost - frame.pts) * (frame.time_base or 0) > RESTART_S


def _is_cover(stream: av.VideoStream) -> bool:
    """True for album art in an audio file, which libavformat presents as a video stream of one picture."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
