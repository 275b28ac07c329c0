import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.media.audio import RATE, ClipAudio
from pipeline.media.frames import open_frames
from pipeline.rows import Cut


def video_with_sound(path, samples_2S, rate=48_000, codec="pcm_s16le", late_s=0.0, pictures_late_s=0.0, title=""):
    """A matroska file: grey pictures at 25 fps and stereo sound, either of which may begin later."""
    with av.open(str(path), "w", format="matroska") as file:
        file.metadata.update({"title": title} if title else {})
        pictures = file.add_stream("mpeg4", rate=25)
        pictures.width = pictures.height = 64
        sound = file.add_stream(codec, rate=rate, layout="stereo")
        for number in range(round(25 * samples_2S.shape[1] / rate)):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number + round(25 * pictures_late_s), Fraction(1, 25)
            file.mux(pictures.encode(picture))
        file.mux(pictures.encode())
        for start in range(0, samples_2S.shape[1], 4800):
            part = np.ascontiguousarray(samples_2S[:, start : start + 4800].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="stereo")
            frame.rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(late_s * rate)
            file.mux(sound.encode(frame))
        file.mux(sound.encode())
    return str(path)


def decoded(flac):
    with av.open(io.BytesIO(flac)) as file:
        stream = file.streams.audio[0]
        assert (stream.rate, stream.codec_context.layout.name, stream.codec_context.name) == (RATE, "mono", "flac")
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(stream)])


@pytest.fixture
def clicks(tmp_path):
    """Six seconds of stereo sound with a click of 10 ms at each second, one loud second number 3."""
    samples = np.zeros((2, 6 * 48_000), np.int16)
    for second in range(6):
        samples[:, second * 48_000 : second * 48_000 + 480] = 8000 if second != 3 else 16000
    return video_with_sound(tmp_path / "clicks.mkv", samples)


def test_the_span_is_exact_to_the_millisecond_and_spans_join(clicks):
    """Bug caught: sound shifted against its pictures by the seek, by rounding, or by the resampler's run-up."""
    audio = ClipAudio(clicks)
    sound = decoded(audio.flac(2.96, 5.52))
    assert len(sound) == round(5.52 * RATE) - round(2.96 * RATE)
    rises = np.flatnonzero((np.abs(sound[1:]) > 4000) & (np.abs(sound[:-1]) <= 4000)) / RATE
    assert rises[0] == pytest.approx(0.04, abs=0.001)
    assert np.abs(sound).max() > 14_000
    whole = decoded(audio.flac(0.0, 6.0))
    parts = [decoded(audio.flac(second, second + 1.0)) for second in range(6)]
    assert np.abs(np.concatenate(parts).astype(int) - whole).max() <= 2


def test_equal_calls_give_equal_bytes(clicks):
    """Bug caught: a date, a version or a random id in the file: every retry another shard."""
    assert ClipAudio(clicks).flac(0.5, 3.5) == ClipAudio(clicks).flac(0.5, 3.5)


def test_silence_no_track_and_beyond_the_end_are_no_sound(clicks, tmp_path):
    """Bug caught: a member of nothing but zeros; a video without sound that fails."""
    assert ClipAudio(clicks).flac(1.1, 1.9) is None
    assert ClipAudio(clicks).flac(20.0, 22.0) is None
    assert ClipAudio(clicks).flac(0.0, 1e9) is None
    with av.open(str(tmp_path / "mute.mp4"), "w") as file:
        pictures = file.add_stream("mpeg4", rate=25)
        pictures.width = pictures.height = 64
        file.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(pictures.encode())
    assert ClipAudio(str(tmp_path / "mute.mp4")).flac(0.0, 1.0) is None
    (tmp_path / "frames").mkdir()
    assert ClipAudio(f"frames:{tmp_path / 'frames'}").flac(0.0, 1.0) is None


def test_sound_that_begins_late_stays_in_its_place(tmp_path):
    """Bug caught: the first sample taken for second 0."""
    loud = np.full((2, 48_000), 9000, np.int16)
    sound = decoded(ClipAudio(video_with_sound(tmp_path / "late.mkv", loud, late_s=0.5)).flac(0.0, 1.0))
    assert np.abs(sound[: int(0.49 * RATE)]).max() == 0
    assert np.abs(sound[int(0.52 * RATE) :]).min() > 4000


@pytest.mark.parametrize("cut", [None, Cut(2.0, 2.4), Cut(2.0)])
def test_sound_and_pictures_that_begin_apart_have_one_clock(tmp_path, cut):
    """Bug caught: pictures counted from the file's start and sound from the first picture, half a second apart."""
    samples = np.zeros((2, 6 * 48_000), np.int16)
    samples[:, 2 * 48_000 : 2 * 48_000 + 480] = 16000
    path = video_with_sound(tmp_path / "late.mkv", samples, pictures_late_s=0.52)
    video = open_frames(path, cut)
    assert sum(len(frames) for _, frames in video.iter_chunks(32)) == len(video.seconds)
    first = next(number for number, seconds in enumerate(video.seconds) if seconds >= 2.0)
    assert first == (37 if cut is None else 0)
    assert np.argmax(np.abs(decoded(ClipAudio(path).flac(video.seconds[first], video.seconds[first] + 1.0))) > 4000) < 9


def test_a_title_that_is_not_utf8_costs_no_sound(tmp_path, latin1_title):
    """Bug caught: a title taken for damaged sound, and clips that are silent for it."""
    path = video_with_sound(tmp_path / "a.mkv", np.full((2, 48_000), 9000, np.int16), title="Strasse")
    assert np.abs(decoded(ClipAudio(str(latin1_title(Path(path)))).flac(0.2, 0.8))).min() > 4000
