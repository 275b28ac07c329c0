"""Small synthetic videos with known frames."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

TICKS = 15360
BITS = 6
VideoMaker = Callable[..., Path]


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A frame that carries its number as six bars, black or white: lossy coding does not hurt it."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)  # the upper left corner is red
    for bit in range(BITS):
        image[height // 2 :, bit * width // BITS : (bit + 1) * width // BITS] = 230 if number >> bit & 1 else 20
    return image


def frame_numbers(frames_FHWC: np.ndarray) -> list[int]:
    """Read the numbers back from the middles of the bars."""
    height, width = frames_FHWC.shape[1:3]
    columns = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    is_white_FB = frames_FHWC[:, height * 3 // 4, columns].mean(axis=2) > 125
    return [int((bits << np.arange(BITS)).sum()) for bits in is_white_FB]


@pytest.fixture
def make_video(tmp_path: Path) -> VideoMaker:
    """``make_video("a.mp4", frames=30, codec=…, pix_fmt=…, durations=[…])`` → path of a video of numbered frames."""

    def make(
        name: str,
        frames: int = 30,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        durations: tuple[int, ...] = (512,),
        size: tuple[int, int] = (96, 64),
        options: dict[str, str] | None = None,
        container: dict[str, str] | None = None,
        title: str = "",
        pixel_aspect: Fraction = Fraction(1),
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=container or {}) as file:
            file.metadata.update({"title": title} if title else {})
            stream = file.add_stream(codec, rate=30, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
            stream.codec_context.sample_aspect_ratio = pixel_aspect
            at = 0
            for number in range(frames):
                frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = at, Fraction(1, TICKS)
                at += durations[number % len(durations)]
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return make


@pytest.fixture
def numbers() -> Callable[[np.ndarray], list[int]]:
    """Reads the frame numbers back."""
    return frame_numbers


@pytest.fixture
def shown_as() -> Callable[..., Path]:
    """Writes into an mp4's track header that players must show pixel (x, y) at (ax + cy, bx + dy)."""

    def turn(path: Path, a: int, b: int, c: int, d: int) -> Path:
        data = bytearray(path.read_bytes())
        at = data.find(b"tkhd") + 4 + 40  # after version, times, duration, layer and volume
        matrix = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
        turned = path.with_name(f"turned-{path.name}")
        turned.write_bytes(data)
        return turned

    return turn


@pytest.fixture
def rotate(shown_as: Callable[..., Path]) -> Callable[[Path], Path]:
    """Writes into an mp4's track header that players must turn it a quarter clockwise."""
    return lambda path: shown_as(path, 0, 1, -1, 0)


@pytest.fixture
def zeroed() -> Callable[[Path, int], Path]:
    """Overwrites the n-th packet of pictures with zeros."""

    def damage(path: Path, number: int) -> Path:
        with av.open(str(path)) as file:
            packet = [packet for packet in file.demux(video=0) if packet.size][number]
            at, size = packet.pos, packet.size
        data = bytearray(path.read_bytes())
        data[at : at + size] = bytes(size)
        damaged = path.with_name(f"damaged-{path.name}")
        damaged.write_bytes(data)
        return damaged

    return damage


@pytest.fixture
def latin1_title() -> Callable[[Path], Path]:
    """Writes Straße into the title ``Strasse`` of a file, as programs did that knew no UTF-8."""

    def patch(path: Path) -> Path:
        data = path.read_bytes()
        assert data.count(b"Strasse") == 1
        path.write_bytes(data.replace(b"Strasse", b"Stra\xdfe "))
        with pytest.raises(UnicodeDecodeError):
            av.open(str(path))
        return path

    return patch


@pytest.fixture
def numbered() -> Callable[..., np.ndarray]:
    """Makes a numbered frame."""
    return numbered_frame
