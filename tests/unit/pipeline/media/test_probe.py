import os
import stat
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.media.probe import believed_seconds, probe
from pipeline.media.stream import FALLBACK_FPS
from pipeline.rejects import RejectError
from pipeline.rows import RejectReason


def rejected(path, **limits):
    with pytest.raises(RejectError) as caught:
        probe(str(path), **limits)
    assert str(path) not in caught.value.detail  # people read it in a table beside the name
    return caught.value.reason


def test_size_rate_and_length_are_read(make_video):
    info = probe(str(make_video("a.mp4")))
    assert (info.width, info.height, info.frames, info.rotation) == (96, 64, 30, 0)
    assert info.fps == pytest.approx(30)


def test_the_extension_does_not_matter(make_video, tmp_path):
    path = make_video("a.mp4").rename(tmp_path / "holiday.txt")
    assert probe(str(path)).frames == 30


def test_rotation_swaps_width_and_height(make_video, rotate):
    info = probe(str(rotate(make_video("a.mp4"))))
    assert (info.width, info.height) == (64, 96)
    assert info.rotation in (90, 270)


def test_a_video_of_one_frame_is_a_video(make_video):
    assert probe(str(make_video("one.mp4", frames=1))).frames == 1


def test_variable_frame_rate_gives_the_mean(make_video):
    info = probe(str(make_video("vfr.mp4", durations=(256, 512, 1024))))
    assert info.fps == pytest.approx(30 * 512 / (1792 / 3), rel=0.05)


def test_a_raw_stream_without_length_still_has_a_rate(make_video):
    info = probe(str(make_video("raw.h264")))
    assert info.fps == FALLBACK_FPS


@pytest.fixture
def live(tmp_path):
    """A WebM as browsers record it: written without a way back, so without length; it may state no rate either."""

    def make(rate, jitter_ms=0, pause_s=0):
        path = tmp_path / "live.webm"
        with path.open("wb") as file, av.open(_Pipe(file), "w", format="webm") as container:
            stream = container.add_stream("libvpx", rate=rate, options={"deadline": "realtime", "cpu-used": "8"})
            stream.width, stream.height = 96, 64
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rate is None:
                stream.codec_context.framerate = Fraction(0, 1)
            for number in range(60):
                frame = av.VideoFrame.from_ndarray(np.full((96, 96), 90, np.uint8), format="yuv420p")
                frame.pts = round(number * 1000 / 30) + number % 3 * jitter_ms + 1000 * pause_s * (number >= 20)
                frame.time_base = Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return str(path)

    return make


class _Pipe:
    def __init__(self, file):
        self._file = file

    def write(self, data):
        return self._file.write(data)


@pytest.mark.parametrize(("jitter_ms", "pause_s"), [(0, 0), (9, 0), (4, 60)])
def test_a_clock_is_not_taken_for_a_rate(live, jitter_ms, pause_s):
    """Bug caught: 1000 frames a second for a WebM without a rate, whose clock ticks so: paths smoothed over 1/33."""
    assert probe(live(None, jitter_ms, pause_s)).fps == pytest.approx(30, rel=0.01)
    assert probe(live(30, jitter_ms)).fps == 30


def test_an_avi_that_claims_its_clock_for_a_rate_is_not_believed(make_video):
    """Bug caught: 600 frames a second in a file that shows 30."""
    assert probe(str(make_video("a.avi", codec="mpeg4", frames=60))).fps == pytest.approx(30)


@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"x264-params": "bframes=3:b-adapt=0"}), ("mpeg4", {"bf": "2"})]
)
def test_frames_that_are_stored_late_are_not_missed_where_counting_stops(make_video, codec, options):
    """Bug caught: 29.94 frames a second, since the last times read had holes where B-frames were still to come."""
    container = {"video_track_timescale": "30"}  # a tick is a frame, so the rate stated is not believed
    path = make_video("a.mp4", codec=codec, frames=600, options=options, container=container)
    assert probe(str(path)).fps == pytest.approx(30, rel=1e-6)


def test_a_rate_that_may_be_the_clocks_is_better_than_none(make_video):
    """Bug caught: 25 frames a second for a single frame whose file says 30."""
    assert probe(str(make_video("a.mp4", frames=1, container={"video_track_timescale": "30"}))).fps == 30


def test_a_length_that_is_not_stated_is_counted(live, make_video):
    """Bug caught: the deadline of a video of no length for a recording of hours."""
    assert probe(live(30)).frames == 60
    assert believed_seconds(live(None), 96 * 64) == pytest.approx(2, rel=0.02)
    assert believed_seconds(str(make_video("raw.h264")), 96 * 64) == pytest.approx(30 / FALLBACK_FPS)


def test_counting_ends_somewhere(live, monkeypatch):
    """Bug caught: a file of nothing but packets that is counted all night."""
    monkeypatch.setattr("pipeline.media.probe.MAX_COUNTED", 40)
    assert probe(live(None)).frames == 40


def test_a_damaged_first_frame_does_not_cost_the_video(make_video, zeroed):
    """Bug caught: a video rejected, two hours of it sound, for its first packet."""
    info = probe(str(zeroed(make_video("a.mp4", options={"g": "10"}), 0)))
    assert (info.width, info.height) == (96, 64)


@pytest.mark.parametrize(
    "name", ["new\nline.mp4", "quo'te\".mp4", "日本.mp4", "concat:a|b.mp4", "-i.mp4", "http:x.mp4"]
)
def test_odd_names_are_just_files(make_video, tmp_path, name, monkeypatch):
    """``concat:…`` and ``http:…`` are protocols to libavformat unless the path is made absolute."""
    make_video("a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(name).frames == 30


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.mkv", "libx264")])
def test_a_title_that_is_not_utf8_is_no_matter(make_video, latin1_title, name, codec):
    """Bug caught: good videos of old programs lost as an error of our own."""
    assert probe(str(latin1_title(make_video(name, codec=codec, title="Strasse")))).width == 96


def test_an_empty_file_is_empty(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch()
    assert rejected(path) is RejectReason.EMPTY


def test_an_absent_file_and_a_folder_are_unreadable(tmp_path):
    assert rejected(tmp_path / "absent.mp4") is RejectReason.UNREADABLE
    assert rejected(tmp_path) is RejectReason.UNREADABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_unreadable(make_video):
    path = make_video("a.mp4")
    path.chmod(stat.S_IWUSR)
    assert rejected(path) is RejectReason.UNREADABLE


def test_a_name_that_is_not_utf8_is_unreadable(make_video, tmp_path):
    path = make_video("a.mp4").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    with pytest.raises(RejectError, match="UTF-8"):
        probe(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"This is a text file, and not a short one.\n" * 100,
        os.urandom(4096),
        b"\x00" * 4096,
        b"\x1b[31mANSI art\x1b[0m\n" * 50,
        b"WEBVTT\n\n00:00.000 --> 00:01.000\nsubtitle\n",
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 64,
    ],
)
def test_what_is_no_video_is_not_video(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert rejected(path) is RejectReason.NOT_VIDEO


def test_a_still_picture_is_not_video(tmp_path):
    import cv2

    for ending in ("png", "jpg"):
        path = tmp_path / f"a.{ending}"
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
        assert rejected(path) is RejectReason.NOT_VIDEO


def test_playlists_are_not_opened(make_video, tmp_path):
    """Else a crawled text file could make the ingest read any file or address it names."""
    inside = make_video("a.ts")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{inside}\n#EXT-X-ENDLIST\n")
    concat = tmp_path / "list.txt"
    concat.write_text(f"ffconcat version 1.0\nfile {inside.name}\n")
    assert rejected(playlist) is RejectReason.NOT_VIDEO
    assert rejected(concat) is RejectReason.NOT_VIDEO


def test_sound_alone_is_not_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert rejected(path) is RejectReason.NOT_VIDEO


def test_frames_above_the_limit_are_too_large(make_video):
    path = make_video("a.mp4")
    assert probe(str(path), max_pixels=96 * 64)
    assert rejected(path, max_pixels=96 * 64 - 1) is RejectReason.TOO_LARGE


def test_a_stream_without_a_frame_that_decodes_is_decode_failed(make_video):
    path = make_video("a.mp4", container={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4
    data[start:] = os.urandom(len(data) - start)
    path.write_bytes(data)
    assert rejected(path) is RejectReason.DECODE_FAILED
