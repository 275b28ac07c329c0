"""Frames of a source as a stream of bounded chunks, and windows of stored clips (PyAV); whole stored clips (decord)."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence

import av
import cv2  # noqa: F401 - before decord, whose zlib would take the place of the one that cv2 reads PNG with
import numpy as np
from av.video.reformatter import VideoReformatter

# Read once, when decord is loaded: how often it retries at the end of a stream whose container promises more frames
# than it holds. The default, 10240, looks like a hang.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")
import decord

from pipeline.media.chunks import chunked
from pipeline.media.cut import crop_to_box, time_behind, time_inside
from pipeline.media.picture import Upright
from pipeline.media.stream import (
    check_readable,
    decodable,
    main_stream,
    open_media,
    plain,
    presumed_fps,
    start_s,
    stated_fps,
)
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason

decord.logging.set_level(decord.logging.FATAL)
av.logging.set_level(None)

SEEK_LEAD_S = 1.0
"""A jump aims this many seconds before a cut: containers index decoding times, which run ahead of what is shown."""
NO_DUPLICATES = 1e-9
"""decord's ``fault_tol``. It replaces a frame it cannot decode by its neighbour: with -1 (its default) and 0 without a
word; a positive share of the frames makes it raise, the smallest one at the first such frame."""


class VideoFrames:
    """The frames of one video file, in order, as often as asked for, as they are shown (``Upright``).

    Each frame comes once and none is invented: damage costs the frames that rest on it, and a container that promises
    more than it holds gives what it holds. PyAV decodes, in step with whoever asks. (decord's thread runs ahead of a
    slow consumer without bounds: a ten-minute video took 6 GB.)

    Not thread-safe. Native decoding can hang or crash on hostile files: run it in a process that can be killed.

    Attributes:
        seconds: when each frame that the last ``iter_chunks`` has yielded is shown, from the file's start.
        is_damaged: whether that pass lost frames to damage.
        losses: of those frames, by number, the ones before which others were lost; their count where the end was.
    """

    def __init__(self, path: str) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self.seconds: array[float] = array("d")
        self.is_damaged = False
        self.losses: set[int] = set()

    def iter_chunks(self, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, frames_FHWC)``: uint8 RGB, consecutive, 1 to ``chunk`` frames (fewer where they are large).

        Raises:
            RejectError: ``empty``, ``unreadable``, or ``decode_failed`` when not one frame can be decoded.
        """
        self.seconds, self.is_damaged, self.losses = array("d"), False, set()
        position = 0
        for frames_FHWC in chunked(self._noted(self.iter_timed()), chunk):
            yield position, frames_FHWC
            position += len(frames_FHWC)
        if position == 0:
            raise RejectError(RejectReason.DECODE_FAILED, self._nothing())

    def iter_timed(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the same frames one by one, uint8 RGB (H, W, 3), each with the seconds at which it is shown.

        Raises:
            RejectError: as ``iter_chunks``, but for a file without frames, which yields none.
        """
        check_readable(self._path)
        with _opened(self._path) as (container, stream):
            yield from self._shown(stream, self._timed(container, stream))

    def _noted(self, timed: Iterable[tuple[float, np.ndarray]]) -> Iterator[np.ndarray]:
        for seconds, frame_HWC in timed:
            self.seconds.append(seconds)
            yield frame_HWC

    def _shown(
        self, stream: av.VideoStream, timed: Iterable[tuple[float, av.VideoFrame]]
    ) -> Iterator[tuple[float, np.ndarray]]:
        upright = Upright(stream)
        for seconds, frame in timed:
            yield seconds, upright(frame)

    def _timed(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield frames with their seconds since the file's start; one without a time comes a frame after the last."""
        step = 1 / (stated_fps(stream) or presumed_fps(stream))
        seconds = -step
        for frame in decodable(container, stream, self._note_loss):
            seconds += step
            if frame.pts is not None and frame.time_base:
                seconds = float(frame.pts * frame.time_base) - start_s(container)
            yield seconds, frame

    def _note_loss(self) -> None:
        self.is_damaged = True
        self.losses.add(len(self.seconds))

    def _nothing(self) -> str:
        return "not one frame can be decoded"


class CutFrames(VideoFrames):
    """The frames of a part of a video file, numbered from the part's first; ``seconds`` still count from the file's.

    Decoding begins at a key frame before the part and ends with it. PyAV decodes: it tells the time of each frame,
    which decides, so that frame rates that vary and key frames far apart do not move the part.
    """

    def __init__(self, path: str, cut: Cut) -> None:
        """Name the file and its part; nothing is opened yet."""
        super().__init__(path)
        self._cut = cut

    def iter_timed(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield as VideoFrames does."""
        check_readable(self._path)
        for seconds, frame_HWC in self._inside():
            yield seconds, crop_to_box(frame_HWC, self._cut)

    def _inside(self) -> Iterator[tuple[float, np.ndarray]]:
        """Decode after a jump to the part's start or, where that cannot be trusted, from 0."""
        if self._cut.start_s > SEEK_LEAD_S:
            with _opened(self._path) as (container, stream):
                timed = self._timed_after_jump(container, stream)
                if timed is not None:
                    yield from self._shown(stream, _within(timed, self._cut))
                    return
        with _opened(self._path) as (container, stream):
            yield from self._shown(stream, _within(self._timed(container, stream), self._cut))

    def _timed_after_jump(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[float, av.VideoFrame]] | None:
        """Jump to a key frame before the part; None where the file cannot, or lands behind its start."""
        aim_s = self._cut.start_s - SEEK_LEAD_S + start_s(container)
        try:
            container.seek(round(aim_s * av.time_base), backward=True)
        except av.error.FFmpegError:
            return None
        timed = self._timed(container, stream)
        first = next(timed, None)
        if first is None or first[1].pts is None or first[0] > self._cut.start_s:
            return None
        return itertools.chain([first], timed)

    def _nothing(self) -> str:
        end = "its end" if self._cut.end_s is None else f"{self._cut.end_s:g} s"
        return f"{super()._nothing()} from {self._cut.start_s:g} s to {end}"


def read_frames(path: str, indices: Sequence[int]) -> np.ndarray:
    """Return the frames at ``indices`` (any order, repeats allowed) as uint8 RGB (F, H, W, 3).

    Decodes from the start up to the largest index: exact for every file that VideoFrames reads.

    Raises:
        RejectError: as VideoFrames, or ``decode_failed`` when the video ends before an index.
    """
    if not len(indices):
        raise ValueError("read_frames needs at least one index")
    wanted, last = set(indices), max(indices)
    found: dict[int, np.ndarray] = {}
    for start, frames_FHWC in VideoFrames(path).iter_chunks(32):
        for offset in range(len(frames_FHWC)):
            if start + offset in wanted:
                found[start + offset] = frames_FHWC[offset].copy()
        if start + len(frames_FHWC) > last:
            break
    if min(indices) < 0 or last not in found:
        raise RejectError(RejectReason.DECODE_FAILED, f"frame {last} was asked for and the video ends before it")
    return np.stack([found[index] for index in indices])


def decode_clip(mp4: bytes, indices: Sequence[int] | None = None) -> np.ndarray:
    """Decode a clip that ``encode_clip`` made, on one thread: uint8 RGB (F, H, W, 3).

    Args:
        mp4: the bytes of the clip.
        indices: frames to return, in this order, repeats allowed; None returns all. Cost depends on their number and
            on the key-frame distance, not on the clip's length.

    Raises:
        RejectError: ``decode_failed`` when the bytes are damaged or an index lies outside the clip.
    """
    try:
        if indices is None:
            reader = decord.VideoReader(io.BytesIO(mp4), num_threads=1, fault_tol=NO_DUPLICATES)
            frames_FHWC: np.ndarray = reader.get_batch(range(len(reader))).asnumpy()
            return frames_FHWC
        with open_media(io.BytesIO(mp4)) as container:
            stream = main_stream(container)
            found = _chosen_frames([packet for packet in container.demux(stream) if packet.size], set(indices))
        return np.stack([found[number] for number in indices])
    except (
        av.error.FFmpegError, decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError, RejectError,
        TypeError, ValueError, KeyError,
    ) as error:  # fmt: skip
        raise RejectError(RejectReason.DECODE_FAILED, f"a stored clip cannot be decoded ({plain(error)})") from error


def _chosen_frames(packets: Sequence[av.Packet], chosen: set[int]) -> dict[int, np.ndarray]:
    """Decode what the chosen frames need: from a key frame on, without frames that no other refers to.

    Every second frame of an encoded clip is one of those, and a window takes every second frame. Frames are numbered by
    the times at which they are shown.
    """
    shown = sorted(packet.pts for packet in packets if packet.pts is not None)
    numbers: dict[int | None, int] = {pts: number for number, pts in enumerate(shown)}
    wanted = [place for place, packet in enumerate(packets) if numbers[packet.pts] in chosen]
    if not wanted:
        return {}
    first = min(numbers[packets[place].pts] for place in wanted)
    keys = [place for place, packet in enumerate(packets) if packet.is_keyframe and numbers[packet.pts] <= first]
    needed = [
        packet
        for packet in packets[max(keys, default=0) : wanted[-1] + 1]
        if numbers[packet.pts] in chosen or _is_referred_to(packet)
    ]
    decoder, to_rgb = packets[0].stream.codec_context, VideoReformatter()
    found: dict[int, np.ndarray] = {}
    for packet in (*needed, None):
        for frame in decoder.decode(packet):
            number = numbers[frame.pts]
            if number in chosen:
                if frame.is_corrupt:
                    raise RejectError(RejectReason.DECODE_FAILED, f"frame {number} is damaged")
                found[number] = to_rgb.reformat(frame, frame.width, frame.height, "rgb24", threads=1).to_ndarray()
    return found


def _is_referred_to(packet: av.Packet) -> bool:
    """Whether other frames may need this one: its H.264 slices say so (``nal_ref_idc``, ISO/IEC 14496-10, 7.4.1)."""
    if packet.stream.codec_context.name != "h264":
        return True
    data, at = bytes(packet), 0
    while at + 4 < len(data):  # an mp4 puts four bytes of length before each unit
        header = data[at + 4]
        if 1 <= header & 31 <= 5 and header >> 5 & 3:
            return True
        at += 4 + int.from_bytes(data[at : at + 4])
    return False


def _within(timed: Iterable[tuple[float, av.VideoFrame]], cut: Cut) -> Iterator[tuple[float, av.VideoFrame]]:
    for seconds, frame in timed:
        if time_behind(seconds, cut):
            return
        if time_inside(seconds, cut):
            yield seconds, frame


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    try:
        container = open_media(path)
    except av.error.FFmpegError as error:
        raise RejectError(RejectReason.DECODE_FAILED, f"it cannot be opened for decoding ({plain(error)})") from error
    with container:
        yield container, main_stream(container)
