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
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=container or {}) as file:
            file.metadata.update({"title": title} if title else {})
            stream = file.add_stream(codec, rate=30, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
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
def rotate() -> Callable[[Path], Path]:
    """Writes into an mp4's track header that players must turn it a quarter clockwise."""

    def turn(path: Path) -> Path:
        data = bytearray(path.read_bytes())
        matrix = data.find(b"tkhd") + 4 + 40  # after version, times, duration, layer and volume
        quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
        data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
        turned = path.with_name(f"turned-{path.name}")
        turned.write_bytes(data)
        return turned

    return turn


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
