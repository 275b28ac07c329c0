"""What is decoded of a stream that is damaged, or that nothing decodes."""

from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.media import stream
from pipeline.media.decode import CutFrames, VideoFrames
from pipeline.media.probe import believed_seconds, probe
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason


def frames_of(video):
    return np.concatenate([frames for _, frames in video.iter_chunks(8)])


MENDING = [
    {"name": "a.mp4", "options": {"g": "10", "bf": "0"}},
    {"name": "a.mp4", "options": {"g": "10", "bf": "2"}},
    {"name": "a.avi", "codec": "mpeg4", "options": {"g": "10"}},
    {"name": "a.mp4", "codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10"}},
]


@pytest.mark.parametrize("how", MENDING, ids=lambda how: "-".join(str(value) for value in how.values()))
@pytest.mark.parametrize("number", [21, 25])
def test_what_is_yielded_rests_on_nothing_lost(make_video, numbers, zeroed, how, number):
    """Bug caught: 25 smeared frames in a clip for one damaged packet, even one that follows a key frame at once."""
    sound = make_video(frames=60, **how)
    whole = frames_of(VideoFrames(str(sound)))
    video = VideoFrames(str(zeroed(sound, number)))
    frames = frames_of(video)
    got = numbers(frames)
    assert np.array_equal(frames, whole[got])
    assert set(got) >= {*range(18), *range(30, 60)}
    assert not {*range(number, 30)} & set(got)
    assert video.is_damaged
    assert video.losses == {next(n for n, number in enumerate(got) if number > n)}
    assert list(video.seconds) == pytest.approx([number / 30 for number in got], abs=1e-3)


def test_a_frame_that_the_decoder_patched_up_is_damage_too(make_video, numbers):
    """Bug caught: a quarter of a picture invented by the decoder, which flags it and raises nothing."""
    options = {"x264-params": "slices=4:threads=1:keyint=10:bframes=0"}
    path = make_video("a.mp4", frames=60, size=(96, 128), options=options)
    with av.open(str(path)) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][25]
    data = bytearray(path.read_bytes())
    at += 4 + int.from_bytes(data[at : at + 4], "big")  # to the second slice, which is made a filler
    data[at + 4] = data[at + 4] & 0xE0 | 12
    path.write_bytes(data)
    assert numbers(frames_of(VideoFrames(str(path)))) == [*range(25), *range(30, 60)]


@pytest.mark.parametrize("options", ["keyint=1000", "intra-refresh=1:keyint=20"])
def test_a_stream_without_further_key_frames_goes_on(make_video, numbers, zeroed, monkeypatch, options):
    """Bug caught: an hour lost for one packet where the encoder puts no second key frame."""
    monkeypatch.setattr(stream, "PATIENCE", 20)
    sound = make_video("a.mp4", frames=60, options={"x264-params": f"{options}:bframes=0:scenecut=0"})
    got = numbers(frames_of(VideoFrames(str(zeroed(sound, 10)))))
    assert got[:10] == list(range(10))
    assert 25 <= len(got) - 10 <= 30


def test_a_damaged_beginning_costs_up_to_the_next_key_frame(make_video, numbers, zeroed):
    """Bug caught: grey pictures that are patched together without the key frame they refer to."""
    path = str(zeroed(make_video("a.mp4", options={"g": "10", "bf": "0"}), 0))
    assert numbers(frames_of(VideoFrames(path))) == list(range(10, 30))
    assert numbers(frames_of(CutFrames(path, Cut(0.5, 0.6)))) == [15, 16, 17]


def test_times_that_begin_anew_behind_a_loss_are_not_waited_for(make_video, numbers, tmp_path):
    """Bug caught: the whole second recording lost for damage at the end of the first, in one file with it."""
    how = {"size": (384, 256), "options": {"x264-params": "keyint=12:bframes=0:scenecut=0"}}
    first, second = make_video("a.ts", frames=50, **how), make_video("b.ts", frames=60, **how)
    with av.open(str(first)) as file:
        at = [packet.pos for packet in file.demux(video=0) if packet.size][48]  # the last key frame
    data = first.read_bytes()
    both = tmp_path / "both.ts"
    both.write_bytes(data[: at + 188] + data[at + 2 * 188 :] + second.read_bytes())
    video = VideoFrames(str(both))
    assert numbers(frames_of(video)) == [*range(48), *range(60)]
    assert video.losses == {48}


def test_a_sound_stream_is_not_called_damaged(make_video):
    """Bug caught: a note of damage beside every clip."""
    video = VideoFrames(str(make_video("a.mp4", options={"g": "10"})))
    frames_of(video)
    assert not video.is_damaged
    assert not video.losses


@pytest.fixture
def two_streams(make_video, tmp_path):
    """A Matroska file of two video streams, the first or both of a codec that nobody knows."""

    def make(both):
        path = tmp_path / "two.mkv"
        with av.open(str(make_video("a.mp4"))) as file, av.open(str(path), "w") as made:
            pictures = file.streams.video[0]
            copies = [made.add_stream_from_template(pictures) for _ in range(2)]
            for packet in file.demux(pictures):
                for copy in copies if packet.size else ():
                    twin = av.Packet(bytes(packet))
                    twin.stream, twin.is_keyframe = copy, packet.is_keyframe
                    twin.pts, twin.dts, twin.time_base = packet.pts, packet.dts, packet.time_base
                    made.mux(twin)
        data = path.read_bytes()
        assert data.count(b"V_MPEG4/ISO/AVC") == 2
        path.write_bytes(data.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/XXX/YYY", 2 if both else 1))
        return str(path)

    return make


def test_a_stream_without_a_decoder_is_passed_over(two_streams, numbers):
    """Bug caught: an AttributeError for a video whose second stream decodes."""
    path = two_streams(both=False)
    assert probe(path).width == 96
    assert numbers(frames_of(VideoFrames(path))) == list(range(30))


def test_an_unknown_codec_is_decode_failed(two_streams):
    """Bug caught: an AttributeError, reported as an error of our own."""
    path = two_streams(both=True)
    for ask in (probe, lambda path: frames_of(VideoFrames(path))):
        with pytest.raises(RejectError, match="no decoder") as caught:
            ask(path)
        assert caught.value.reason is RejectReason.DECODE_FAILED
    assert believed_seconds(path, 1 << 20) == 0.0


@pytest.mark.parametrize(
    ("rate", "stated"), [(None, None), (600, None), (0, None), (7200, None), ("30000/1001", 29.97)]
)
def test_a_rate_is_believed_unless_it_is_the_clocks_or_impossible(rate, stated):
    class Stream:
        average_rate, guessed_rate, time_base = rate and Fraction(rate), Fraction(120), Fraction(1, 600)

    assert stream.stated_fps(Stream()) == (stated and pytest.approx(stated, abs=1e-3))


@pytest.mark.parametrize(("rate", "presumed"), [(None, 25), (0, 25), (600, 25), (30, 30), (240, 240)])
def test_a_clock_that_frames_may_have_is_presumed_to_be_their_rate(rate, presumed):
    class Stream:
        average_rate = rate and Fraction(rate)

    assert stream.presumed_fps(Stream()) == presumed
