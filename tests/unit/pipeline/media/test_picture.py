"""A frame as it is shown: all that a file can say of how its pixels lie."""

import io
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.media.decode import CutFrames, VideoFrames
from pipeline.media.probe import probe
from pipeline.rows import Cut


def frames_of(video):
    return np.concatenate([frames for _, frames in video.iter_chunks(8)])


ORIENTATIONS = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)] + [
    (0, b, c, 0) for b, c in product((1, -1), repeat=2)
]


@pytest.mark.parametrize(("a", "b", "c", "d"), ORIENTATIONS)
def test_each_of_the_eight_orientations_is_shown_as_players_show_it(make_video, shown_as, a, b, c, d):
    """Bug caught: a mirrored video (a front camera's) upside down, since its rotation alone reads 180 degrees."""
    plain = make_video("a.mp4", frames=3)
    expected = frames_of(VideoFrames(str(plain)))  # (F, y, x, 3)
    if b:
        expected = expected.swapaxes(1, 2)
    expected = expected[:, :: d or b, :: a or c]
    path = str(shown_as(plain, a, b, c, d))
    assert np.array_equal(frames_of(VideoFrames(path)), expected)
    assert np.array_equal(frames_of(CutFrames(path, Cut(0.0, 9.0))), expected)
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (3, 0, 0, 2), (1, 1, -1, 1)])
def test_a_matrix_that_says_nothing_costs_no_frame(make_video, shown_as, matrix):
    """Bug caught: an error of our own for a matrix of zeros, which says nothing, or one that scales or tilts."""
    path = str(shown_as(make_video("a.mp4", frames=3), *matrix))
    assert len(frames_of(VideoFrames(path))) == 3


def test_side_data_that_pyav_does_not_know_costs_no_frame(tmp_path):
    """Bug caught: PyAV's ValueError for EXIF in motion JPEG, an error of our own; its rotation is still applied."""
    notes, jpeg = Image.Exif(), io.BytesIO()
    notes[0x0112] = 6  # a quarter clockwise
    pixels = np.full((64, 96, 3), 90, np.uint8)
    pixels[:32, :48] = (220, 30, 30)
    Image.fromarray(pixels).save(jpeg, "JPEG", exif=notes)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        packet = av.Packet(jpeg.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1000)
        file.mux(packet)
    with av.open(str(path)) as file, pytest.raises(ValueError, match="not a valid Type"):
        _ = next(file.decode(video=0)).side_data
    frames = frames_of(VideoFrames(str(path)))
    assert frames.shape == (1, 96, 64, 3)
    assert frames[0, 10, 50, 0] > 150 > frames[0, 10, 10, 0]


@pytest.mark.parametrize(
    ("size", "pixel_aspect", "shown"),
    [
        ((60, 80), Fraction(32, 15), (128, 80)),
        ((96, 64), Fraction(3, 4), (72, 64)),
        ((96, 64), Fraction(120, 119), (96, 64)),
        ((96, 64), Fraction(9), (96, 64)),
        ((96, 64), Fraction(1, 9), (96, 64)),
    ],
)
def test_pixels_that_are_not_square_are_made_so(make_video, numbers, size, pixel_aspect, shown):
    """Bug caught: faces stored at half of their width (DV, DVD); a rounding taken for a shape, or a lie believed."""
    path = str(make_video("a.mp4", frames=3, size=size, pixel_aspect=pixel_aspect))
    info, frames = probe(path), frames_of(VideoFrames(path))
    assert (info.width, info.height) == (frames.shape[2], frames.shape[1]) == shown
    assert numbers(frames) == [0, 1, 2]


def test_pixels_are_made_square_before_the_frame_is_turned(make_video, rotate):
    """Bug caught: the height of a turned video stretched in place of its width."""
    path = str(rotate(make_video("a.mp4", frames=3, pixel_aspect=Fraction(2))))
    info = probe(path)
    assert (info.width, info.height) == (64, 192)
    assert frames_of(VideoFrames(path)).shape == (3, 192, 64, 3)


def test_a_size_within_the_limit_that_is_shown_beyond_it_is_too_large(make_video):
    """Bug caught: a limit on memory that pixels of a fourfold width pass by."""
    path = str(make_video("a.mp4", frames=3, pixel_aspect=Fraction(4)))
    with pytest.raises(Exception, match="384×64"):
        probe(path, max_pixels=96 * 64)


def test_a_size_that_changes_keeps_its_shape(make_video, numbers):
    """Bug caught: faces squeezed to a third of their width from where a stream changes its size on."""
    wide, high = make_video("wide.ts", frames=5), make_video("high.ts", frames=5, size=(64, 96))
    wide.write_bytes(wide.read_bytes() + high.read_bytes())
    frames = frames_of(VideoFrames(str(wide)))
    assert frames.shape == (10, 64, 96, 3)
    assert not frames[5:, :, :26].any()
    assert not frames[5:, :, 26 + 43 :].any()
    assert numbers(frames[5:, :, 27:68]) == [0, 1, 2, 3, 4]
    red_YX = np.abs(frames[5].astype(int) - (220, 30, 30)).max(axis=2) < 60
    assert red_YX.any(axis=1).sum() == pytest.approx(32, abs=2)
    assert red_YX.any(axis=0).sum() == pytest.approx(43 / 2, abs=2)
