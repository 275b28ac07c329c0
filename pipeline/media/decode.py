"""Frames of a video as a stream of bounded chunks (decord, with PyAV where decord cannot be trusted)."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence

import av
import numpy as np

# Read once, when decord is loaded: how often it retries at the end of a stream whose container promises more frames
# than it holds. The default, 10240, looks like a hang.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")
import decord

from pipeline.media.probe import OPEN_OPTIONS, check_readable, local_name, plain
from pipeline.rejects import RejectError
from pipeline.rows import RejectReason

logger = logging.getLogger(__name__)
decord.logging.set_level(decord.logging.FATAL)
av.logging.set_level(None)

CHUNK_BYTES = 16 << 20
"""A chunk holds no more than this or one frame: 8K frames are 100 MB each, and chunks that fit the cache are faster."""
NO_DUPLICATES = 1e-9
"""decord's ``fault_tol``. It replaces a frame it cannot decode by its neighbour: with -1 (its default) and 0 without a
word; a positive share of the frames makes it raise, the smallest one at the first such frame."""


class VideoFrames:
    """The frames of one video file, in order, as often as asked for; rotation metadata is applied.

    decord decodes. At the first frame that it would replace by a copy of its neighbour (damaged packets, an edit list
    that drops frames, a container that promises more than it holds) PyAV takes over from the start of that chunk and
    yields what can really be decoded. The place of the switch is remembered, so every pass yields the same frames.

    Not thread-safe. Native decoding can hang or crash on hostile files: run it in a process that can be killed.
    """

    def __init__(self, path: str) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path
        self._switch_at: int | None = None

    def iter_chunks(self, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield ``(start, frames_FHWC)``: uint8 RGB, consecutive, 1 to ``chunk`` frames (fewer where they are large).

        Raises:
            RejectError: ``empty``, ``unreadable``, or ``decode_failed`` when not one frame can be decoded.
        """
        check_readable(self._path)
        position = 0
        for frames_FHWC in self._decord_chunks(chunk):
            yield position, frames_FHWC
            position += len(frames_FHWC)
        if self._switch_at is not None:
            for frames_FHWC in self._pyav_chunks(chunk, skip=position):
                yield position, frames_FHWC
                position += len(frames_FHWC)
        if position == 0:
            raise RejectError(RejectReason.DECODE_FAILED, "not one frame can be decoded")

    def _decord_chunks(self, chunk: int) -> Iterator[np.ndarray]:
        if self._switch_at == 0:
            return
        try:
            reader = decord.VideoReader(local_name(self._path), num_threads=1, fault_tol=NO_DUPLICATES)
            promised = len(reader)
        except (decord.DECORDError, RuntimeError) as error:
            self._switch(0, error)
            return
        start, step = 0, chunk
        while start < promised:
            if self._switch_at is not None and start >= self._switch_at:
                return
            try:
                if start == 0:  # the first frame tells the size
                    step = bounded_chunk(reader[0].shape, chunk)
                frames_FHWC = reader.get_batch(range(start, min(start + step, promised))).asnumpy()
            except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
                self._switch(start, error)
                return
            yield frames_FHWC
            start += len(frames_FHWC)

    def _switch(self, start: int, error: Exception) -> None:
        self._switch_at = start
        logger.debug("decord stopped before frame %d, PyAV goes on: %s", start, plain(error))

    def _pyav_chunks(self, chunk: int, skip: int) -> Iterator[np.ndarray]:
        held: list[np.ndarray] = []
        step = chunk
        for index, frame_HWC in enumerate(_pyav_frames(self._path)):
            if index < skip:
                continue
            step = bounded_chunk(frame_HWC.shape, chunk)
            held.append(frame_HWC)
            if len(held) >= step:
                yield np.stack(held)
                held = []
        if held:
            yield np.stack(held)


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
        reader = decord.VideoReader(io.BytesIO(mp4), num_threads=1, fault_tol=NO_DUPLICATES)
        chosen = range(len(reader)) if indices is None else list(indices)
        frames_FHWC: np.ndarray = reader.get_batch(chosen).asnumpy()
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, IndexError) as error:
        raise RejectError(RejectReason.DECODE_FAILED, f"a stored clip cannot be decoded ({plain(error)})") from error
    return frames_FHWC


def bounded_chunk(shape_HWC: tuple[int, ...], chunk: int) -> int:
    """Return how many frames of this shape a chunk may hold: ``chunk``, or fewer where they are large."""
    return max(1, min(chunk, CHUNK_BYTES // int(np.prod(shape_HWC))))


def _pyav_frames(path: str) -> Iterator[np.ndarray]:
    """Yield every frame that decodes, RGB uint8 (H, W, 3), upright, all of the first frame's size."""
    try:
        container = av.open(local_name(path), options=OPEN_OPTIONS)
    except av.error.FFmpegError as error:
        raise RejectError(RejectReason.DECODE_FAILED, f"it cannot be opened for decoding ({plain(error)})") from error
    size: tuple[int, int] | None = None
    with container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in _decodable(container, stream):
            size = size or (frame.width, frame.height)
            image_HWC = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
            turns = round(frame.rotation / 90) % 4
            yield np.ascontiguousarray(np.rot90(image_HWC, turns)) if turns else image_HWC


def _decodable(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Decode packet by packet; a damaged packet costs its own frames, a damaged container ends the stream."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from frames
