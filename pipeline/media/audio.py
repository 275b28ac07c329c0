"""The sound of a clip: exactly its span of time, 16 kHz, mono, as FLAC."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np

from pipeline.media.stream import open_media, start_s

RATE = 16_000
"""Samples per second."""
SEEK_LEAD_S = 1.0
"""A jump aims this many seconds before the span: decoders need a run-up, and containers index coarsely."""
SILENCE_PEAK = 16
"""A span whose samples all lie below it, of 32768, is silent: -66 dB."""
MAX_SPAN_S = 600.0
"""No clip is longer; bounds memory against a frame rate that lies."""


class ClipAudio:
    """The first audio stream of a file, read span by span; memory is that of one span."""

    def __init__(self, path: str) -> None:
        """Name the file; nothing is opened yet."""
        self._path = path

    def flac(self, begin_s: float, end_s: float) -> bytes | None:
        """Return the sound from ``begin_s`` to ``end_s`` of the file, None where there is none or it is silent.

        Seconds count from the file's start, as those of frames and cuts do. Neighbouring spans join without a gap.
        What the stream does not cover is silence. Same file, same bytes.
        """
        if not 0 <= end_s - begin_s <= MAX_SPAN_S:
            return None
        samples_S = self._samples(round(begin_s * RATE), round(end_s * RATE))
        if not len(samples_S) or np.abs(samples_S.astype(np.int32)).max() < SILENCE_PEAK:
            return None
        return _encode(samples_S)

    def _samples(self, first: int, stop: int) -> np.ndarray:
        """Samples ``first`` … ``stop - 1`` behind the file's start, int16; damage reads as silence."""
        span_S = np.zeros(stop - first, np.int16)
        try:
            with open_media(self._path) as container:
                for position, part_S in _decoded(container, first):
                    if position >= stop:
                        break
                    low, high = max(first, position), min(stop, position + len(part_S))
                    if low < high:
                        span_S[low - first : high - first] = part_S[low - position : high - position]
        except (av.error.FFmpegError, OSError, ValueError):
            pass  # a video with damaged sound is still a video
        return span_S


def _decoded(container: av.container.InputContainer, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position in samples behind the file's start, int16 mono samples) from before sample ``first`` on."""
    stream = next(iter(container.streams.audio), None)
    if stream is None:
        return
    stream.codec_context.thread_count = 1
    begin_s = start_s(container)
    container.seek(int(max(0.0, begin_s + first / RATE - SEEK_LEAD_S) * av.time_base))
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    position: int | None = None
    for frame in container.decode(stream):
        if position is None:
            position = round(((frame.time or 0.0) - begin_s) * RATE)
        for part in resampler.resample(frame):
            samples_S = part.to_ndarray()[0]
            yield position, samples_S
            position += len(samples_S)


def _encode(samples_S: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, mode="w", format="flac", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono", format="s16")
        stream.options = {"flags": "+bitexact"}
        frame = av.AudioFrame.from_ndarray(samples_S[None], format="s16", layout="mono")
        frame.rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
