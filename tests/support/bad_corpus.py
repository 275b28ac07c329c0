"""Makes every kind of bad video file from one good one, and says what each must become.

``CLIPS`` files hold a face that can be had in spite of all; the others must be rejected for the reason given, or must
not be listed at all. Every file has bytes of its own, so that none hides behind a twin.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

CLIPS, NOT_LISTED = "clips", "not listed"
TICKS = 12800
"""Time units a second in the files made here."""
FRAMES, WIDTH, HEIGHT = 16, 480, 270


@dataclass(frozen=True, slots=True)
class Case:
    """One file: its name below the corpus (bytes where it is no text), what must become of it, how it is made."""

    name: str | bytes
    becomes: str
    make: Callable[[Path, Kit], object]
    heavy: bool = field(default=False, kw_only=True)

    @property
    def listed_as(self) -> str:
        """The name in the ledger."""
        return os.fsencode(self.name).decode("utf-8", "backslashreplace")


class Kit:
    """A good video in pieces: frames, and the bytes of an MP4 with its index behind or before the frames."""

    def __init__(self, sample: Path, scratch: Path) -> None:
        with av.open(str(sample)) as file:
            frames = [frame for frame, _ in zip(file.decode(video=0), range(FRAMES), strict=False)]
            self.frames_FHWC = np.stack([f.to_ndarray(format="rgb24", width=WIDTH, height=HEIGHT) for f in frames])
        self.mp4 = self.encoded(scratch / "good.mp4")
        self.faststart = self.encoded(scratch / "fast.mp4", container={"movflags": "faststart"})
        self._made = 0

    def encoded(
        self,
        path: Path,
        *,
        frames: Sequence[np.ndarray] | None = None,
        size: tuple[int, int] = (WIDTH, HEIGHT),
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        rate: int = 25,
        ticks: int = TICKS,
        durations: Sequence[int] = (TICKS // 25,),
        container: dict[str, str] | None = None,
        kind: str | None = None,
    ) -> bytes:
        """Write a video and return its bytes. ``durations`` of frames, in units of 1/``ticks`` s, are used in turn."""
        with av.open(str(path), "w", format=kind, options=container or {}) as file:
            quick = {"preset": "ultrafast"} if codec == "libx264" else {}
            stream = file.add_stream(codec, rate=rate, options=quick)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.codec_context.time_base = Fraction(1, ticks)
            at = 0
            for number, image_HWC in enumerate(self.frames_FHWC if frames is None else frames):
                frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24").reformat(*size, pix_fmt)
                frame.pts, frame.time_base = at, Fraction(1, ticks)
                at += durations[number % len(durations)]
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path.read_bytes()

    def different(self, mp4: bytes | None = None) -> bytes:
        """Return the same video with bytes of its own: a box behind it that players skip."""
        self._made += 1
        return (mp4 or self.mp4) + box(b"free", struct.pack(">I", self._made))


def make_corpus(folder: Path, sample: Path, scratch: Path, *, heavy: bool = False) -> list[Case]:
    """Make the files of the quick (or the heavy) cases below ``folder`` and return the cases.

    Args:
        folder: where the files go.
        sample: a video of one face.
        scratch: a folder outside ``folder``.
        heavy: the cases that take minutes.
    """
    kit = Kit(sample, scratch)
    cases = [case for case in CASES if case.heavy == heavy]
    for case in cases:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(case.name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path, kit)
    return cases


def box(kind: bytes, body: bytes) -> bytes:
    """One MP4 box."""
    return struct.pack(">I", len(body) + 8) + kind + body


def _bytes(change: Callable[[Kit], bytes]) -> Callable[[Path, Kit], object]:
    return lambda path, kit: path.write_bytes(change(kit))


def _copy(path: Path, kit: Kit) -> None:
    path.write_bytes(kit.different())


def _patched(kind: bytes, at: int, value: bytes) -> Callable[[Path, Kit], object]:
    """Overwrite bytes ``at`` … of the body of the first box of a kind."""

    def change(kit: Kit) -> bytes:
        data = bytearray(kit.different())
        start = data.index(kind) + 4 + at
        data[start : start + len(value)] = value
        return bytes(data)

    return _bytes(change)


def _big(value: int) -> bytes:
    return struct.pack(">I", value)


def _avi_of(frames: int) -> Callable[[Path, Kit], object]:
    """An AVI whose two headers tell this number of frames."""

    def make(path: Path, kit: Kit) -> None:
        data = bytearray(kit.encoded(path, **AVI))
        for kind, at in ((b"avih", 16), (b"strh", 32)):
            start = data.index(kind) + 8 + at
            data[start : start + 4] = struct.pack("<I", frames)
        path.write_bytes(data)

    return make


def _encoded(**how: Any) -> Callable[[Path, Kit], object]:
    return lambda path, kit: kit.encoded(path, **how)


def _middle_zeroed(kit: Kit) -> bytes:
    data = bytearray(kit.different())
    start, size = data.index(b"mdat"), len(kit.mp4)
    data[start + size // 3 : start + size // 2] = bytes(size // 2 - size // 3)
    return bytes(data)


def _middle_cut_out(kit: Kit) -> bytes:
    data = kit.faststart
    return data[: len(data) * 3 // 4] + data[len(data) * 3 // 4 + 3000 :]


def _audio(path: Path, codec: str, kind: str, cover: Kit | None = None) -> None:
    with av.open(str(path), "w", format=kind) as file:
        stream = file.add_stream(codec, rate=44100)
        if cover is not None:
            picture = file.add_stream("png", rate=1)
            picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
        tone = np.sin(np.arange(44100) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.rate = 44100
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=44100,
                                      frame_size=stream.codec_context.frame_size or 1024)  # fmt: skip
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode())
        if cover is not None:
            image = av.VideoFrame.from_ndarray(cover.frames_FHWC[0], format="rgb24")
            file.mux(picture.encode(image))
            file.mux(picture.encode())


def _picture(path: Path, kit: Kit) -> None:
    frame = av.VideoFrame.from_ndarray(kit.frames_FHWC[0], format="rgb24")
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = WIDTH, HEIGHT, "rgb24", Fraction(1, 25)
    path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))


def _noise(path: Path, kit: Kit) -> None:
    kit.encoded(path, frames=np.random.default_rng(0).integers(0, 255, (12, HEIGHT, WIDTH, 3), dtype=np.uint8))


def _two_sizes(path: Path, kit: Kit) -> None:
    parts = [kit.encoded(path, kind="mpegts"), kit.encoded(path, kind="mpegts", size=(WIDTH // 2, HEIGHT // 2 + 1))]
    path.write_bytes(b"".join(parts))


def _unreadable(path: Path, kit: Kit) -> None:
    """A file that nobody may read; for root, who may read all, a link that leads nowhere."""
    if os.geteuid() == 0:
        path.symlink_to(path.with_name("nowhere.mp4"))
    else:
        path.write_bytes(kit.different())
        path.chmod(0)


def _eight_k(path: Path, kit: Kit) -> None:
    kit.encoded(path, frames=kit.frames_FHWC[:10], size=(7680, 4320))


def _two_hours(path: Path, kit: Kit) -> None:
    kit.encoded(path, frames=Again(kit.frames_FHWC, 7200), rate=1, durations=(TICKS,), size=(320, 180))


class Again(Sequence):
    """Frames over and over, without holding them."""

    def __init__(self, frames_FHWC: np.ndarray, count: int) -> None:
        self._frames_FHWC, self._count = frames_FHWC, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]
        if number >= self._count:
            raise IndexError(number)
        return self._frames_FHWC[number % len(self._frames_FHWC)]


QUARTER_TURN = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
HUGE_GIF = b"GIF89a" + struct.pack("<HHBBB", 16000, 16000, 0x80, 0, 0) + bytes(6) + (
    b"\x2c" + struct.pack("<HHHHB", 0, 0, 16000, 16000, 0) + b"\x02\x02\x44\x01\x00\x3b"
)  # fmt: skip
AVI: dict[str, Any] = {"codec": "mpeg4", "ticks": 25, "durations": (1,), "kind": "avi"}
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'

CASES = (
    Case("good.mp4", CLIPS, _copy),
    # What is no video, whatever its name says
    Case("empty.mp4", "empty", _bytes(lambda _: b"")),
    Case("text.mp4", "not_video", _bytes(lambda _: b"this is no video\n" * 100)),
    Case("random.mkv", "not_video", _bytes(lambda _: np.random.default_rng(1).bytes(50_000))),
    Case("zeros.avi", "not_video", _bytes(lambda _: bytes(50_000))),
    Case("picture.mp4", "not_video", _picture),
    Case("sound.mp4", "not_video", lambda path, _: _audio(path, "aac", "mp4")),
    Case("sound with cover.mp4", "not_video", lambda path, kit: _audio(path, "libmp3lame", "mp3", kit)),
    Case("page.webm", "not_video", _bytes(lambda _: b"<!doctype html><title>403 Forbidden</title>")),
    # What would make a careless decoder read another file
    Case("playlist.mp4", "not_video", _bytes(lambda _: PLAYLIST)),
    Case("concat.mp4", "not_video", _bytes(lambda _: CONCAT)),
    Case("drawing.mp4", "not_video", _bytes(lambda _: SVG)),
    Case("playlist.m3u8", NOT_LISTED, _bytes(lambda _: PLAYLIST)),
    # Wrong extensions
    Case("video.txt", CLIPS, _copy),
    Case("matroska.mp4", CLIPS, _encoded(kind="matroska")),
    Case("animation.mp4", CLIPS, _encoded(kind="gif", codec="gif", pix_fmt="rgb8")),
    Case("notes.txt", NOT_LISTED, _bytes(lambda _: b"not even offered")),
    # Damage
    Case("head missing.mp4", "not_video", _bytes(lambda kit: kit.different()[2000:])),
    Case("middle missing.mp4", CLIPS, _bytes(_middle_cut_out)),
    Case("tail missing, index first.mp4", CLIPS, _bytes(lambda kit: kit.faststart[: len(kit.faststart) * 3 // 4])),
    Case("tail missing, index last.mp4", "not_video", _bytes(lambda kit: kit.mp4[: len(kit.mp4) * 3 // 4])),
    Case(
        "packets zeroed.mp4", "no_track", _bytes(_middle_zeroed)
    ),  # five frames: behind them nothing rests on a key frame
    Case("no frame left.mp4", "decode_failed", _patched(b"stsz", 8, _big(0))),
    # Lies
    Case("more frames than there are.avi", CLIPS, _avi_of(1_000_000)),
    Case("fewer frames than there are.avi", CLIPS, _avi_of(1)),
    Case("sizes of more frames than there are.mp4", "decode_failed", _patched(b"stsz", 8, _big(100_000))),
    Case("longer than it is.mp4", CLIPS, _patched(b"mvhd", 16, _big(0x7FFFFFFF))),
    Case("times of a million frames.mp4", CLIPS, _patched(b"stts", 8, _big(1_000_000))),
    Case("a frame an hour.mp4", CLIPS, _encoded(durations=(3600 * TICKS,))),
    Case("edit list that starts late.mp4", CLIPS, _patched(b"elst", 12, _big(3 * TICKS // 25))),
    Case("huge canvas.mp4", "too_large", _bytes(lambda _: HUGE_GIF)),
    # Honest, and unusual
    Case("variable rate.mp4", CLIPS, _encoded(durations=(200, 512, 1700))),
    Case("rotated.mp4", CLIPS, _patched(b"tkhd", 40, QUARTER_TURN)),
    Case("ten bits.mkv", CLIPS, _encoded(pix_fmt="yuv420p10le")),
    Case("full colour.mkv", CLIPS, _encoded(pix_fmt="yuv444p")),
    Case("lossless with alpha.mov", CLIPS, _encoded(codec="png", pix_fmt="rgba")),
    Case("old.avi", CLIPS, _encoded(**AVI)),
    Case("two sizes.mts", CLIPS, _two_sizes),
    Case("one frame.mp4", "no_track", lambda path, kit: kit.encoded(path, frames=kit.frames_FHWC[:1])),
    Case("two pixels.mkv", "no_face", _encoded(size=(2, 2))),
    Case("noise.mp4", "no_face", _noise),
    # What cannot be read, or must not be opened
    Case("unreadable.mp4", "unreadable", _unreadable),
    Case("link in a circle.mp4", "unreadable", lambda path, _: path.symlink_to(path.name)),
    Case("link outside.mp4", NOT_LISTED, lambda path, _: path.symlink_to("/etc/passwd")),
    Case("folder.mp4", NOT_LISTED, lambda path, _: path.mkdir()),
    Case("pipe.mp4", NOT_LISTED, lambda path, _: os.mkfifo(path)),
    # Names
    Case("white  space .mp4", CLIPS, _copy),
    Case("quotes ' \" ` $(reboot) ;&|.mp4", CLIPS, _copy),
    Case("dots...in.the.name.mp4", CLIPS, _copy),
    Case("-rf.mp4", CLIPS, _copy),
    Case("concat:a|b.mp4", CLIPS, _copy),
    Case("crf=51 %s {}\t#?.mp4", CLIPS, _copy),
    Case("größe 顔 🎬 \u202eabc.mp4", CLIPS, _copy),
    Case("two\nlines\r.mp4", CLIPS, _copy),
    Case(b"no text \xff\xfe.mp4", CLIPS, _copy),
    Case("deep/er/" + "n" * 251 + ".mp4", CLIPS, _copy),
    # Minutes
    Case("8k.mp4", CLIPS, _eight_k, heavy=True),
    Case("two hours.mp4", CLIPS, _two_hours, heavy=True),
)
