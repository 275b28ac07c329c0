import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from pipeline.config import ClipConfig
from pipeline.media import chunks
from pipeline.media.decode import CutFrames, VideoFrames, decode_clip, read_frames
from pipeline.media.encode import encode_clip
from pipeline.media.probe import probe
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason


def all_frames(video, chunk=8):
    chunks = list(video.iter_chunks(chunk))
    assert [start for start, _ in chunks] == list(np.cumsum([0, *(len(f) for _, f in chunks)])[:-1])
    assert all(frames.dtype == np.uint8 and frames.ndim == 4 for _, frames in chunks)
    return np.concatenate([frames for _, frames in chunks])


@pytest.mark.parametrize(
    "how",
    [
        {"name": "a.mp4"},
        {"name": "a.webm", "codec": "libvpx-vp9"},
        {"name": "a.avi", "codec": "mpeg4"},
        {"name": "a.mkv", "codec": "ffv1", "size": (97, 65)},
        {"name": "a.mp4", "codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}},
        {"name": "a.mp4", "pix_fmt": "yuv444p"},
        {"name": "a.mp4", "durations": (256, 512, 2048)},
        {"name": "a.gif", "codec": "gif", "pix_fmt": "rgb8"},
    ],
    ids=lambda how: "-".join(str(value) for value in how.values()),
)
def test_every_frame_comes_once_and_in_order(make_video, numbers, how):
    frames = all_frames(VideoFrames(str(make_video(frames=20, **how))))
    assert numbers(frames) == list(range(20))


def test_a_title_that_is_not_utf8_costs_no_frame(make_video, latin1_title, numbers):
    """Bug caught: a video that is probed and then lost, or a part of it, for its title."""
    path = str(latin1_title(make_video("a.avi", codec="mpeg4", title="Strasse")))
    assert numbers(all_frames(VideoFrames(path))) == list(range(30))
    assert numbers(all_frames(CutFrames(path, Cut(0.5)))) == list(range(15, 30))


def test_rotation_is_applied(make_video, rotate):
    """The corner that is red must be the upper right one after a quarter turn clockwise."""
    path = str(rotate(make_video("a.mp4", frames=3)))
    frames, info = all_frames(VideoFrames(path)), probe(path)
    assert frames.shape[1:3] == (info.height, info.width) == (96, 64)
    assert frames[0, 10, 50, 0] > 150 > frames[0, 10, 10, 0]


def test_pictures_can_be_read_where_decord_was_loaded_first():
    """Bug caught: decord's zlib in the place of cv2's ("bad parameters to zlib"), by the order of imports."""
    code = """
import pipeline.media.decode
import cv2, numpy
picture = numpy.arange(7500, dtype=numpy.uint8).reshape(50, 50, 3)
assert (cv2.imdecode(cv2.imencode(".png", picture)[1], cv2.IMREAD_COLOR) == picture).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_slow_consumer_does_not_let_frames_pile_up(sample_videos):
    """Bug caught: a decoder that runs ahead in a thread of its own: 472 frames of 640x360 are 326 MB."""
    process = psutil.Process()
    chunks_seen = VideoFrames(str(sample_videos / "WolfgangLanger_Pexels.mp4")).iter_chunks(8)
    next(chunks_seen)
    before = process.memory_info().rss
    for _ in range(20):
        time.sleep(0.1)
        next(chunks_seen)
    assert process.memory_info().rss - before < 64 << 20


def test_chunks_do_not_change_the_frames(make_video):
    video = VideoFrames(str(make_video("a.mp4")))
    assert np.array_equal(all_frames(video, 7), all_frames(video, 30))


def test_a_second_pass_gives_the_same_frames(make_video):
    video = VideoFrames(str(make_video("a.mp4")))
    assert np.array_equal(all_frames(video), all_frames(video))


def test_large_frames_make_small_chunks(make_video, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 96 * 64 * 3 * 2)
    sizes = [len(frames) for _, frames in VideoFrames(str(make_video("a.mp4", frames=5))).iter_chunks(32)]
    assert sizes == [2, 2, 1]


def test_a_video_that_promises_more_than_it_holds_gives_what_it_holds(make_video, numbers):
    """A file cut off in transit: neither a hang nor copies of the last frame up to the promised number."""
    path = make_video("a.mp4", frames=60, container={"movflags": "+faststart"}, options={"g": "10", "bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 2])
    assert probe(str(path)).frames == 60
    got = numbers(all_frames(VideoFrames(str(path))))
    assert 5 < len(got) < 60
    assert got == list(range(len(got)))


def test_damage_in_the_middle_costs_frames_but_never_copies_them(make_video, numbers):
    path = make_video("a.mp4", frames=60, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat")
    middle = start + (data.find(b"moov") - start) // 2
    data[middle : middle + 40] = os.urandom(40)
    path.write_bytes(data)
    video = VideoFrames(str(path))
    first, second = all_frames(video), all_frames(video)
    assert np.array_equal(first, second)
    assert 30 < len(first) <= 60


def test_an_edit_list_that_drops_frames_is_obeyed(sample_videos):
    """``no_face.mp4`` lists 98 frames and shows 95; decord repeats the last one three times."""
    frames = all_frames(VideoFrames(str(sample_videos / "no_face.mp4")), 32)
    assert len(frames) == 95
    assert np.any(frames[-1] != frames[-2])


def test_nothing_that_decodes_is_decode_failed(make_video):
    path = make_video("a.mp4", container={"movflags": "+faststart"})
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4
    data[start:] = os.urandom(len(data) - start)
    path.write_bytes(data)
    with pytest.raises(RejectError) as caught:
        all_frames(VideoFrames(str(path)))
    assert caught.value.reason is RejectReason.DECODE_FAILED


def test_read_frames_keeps_the_order_asked_for(make_video, numbers):
    path = str(make_video("a.mp4"))
    assert numbers(read_frames(path, [17, 3, 3, 29])) == [17, 3, 3, 29]
    with pytest.raises(RejectError):
        read_frames(path, [30])


def test_decode_clip_gives_the_frames_that_were_encoded(numbers, numbered):
    clip = np.stack([numbered(n) for n in range(64)])
    mp4 = encode_clip(clip, 25.0, ClipConfig())
    assert numbers(decode_clip(mp4)) == list(range(64))
    window = list(range(21, 53, 2))
    assert numbers(decode_clip(mp4, window)) == window
    assert numbers(decode_clip(mp4, range(0, 64, 4))) == list(range(0, 64, 4))


@pytest.mark.parametrize("change", [{}, {"b_frames": 0}, {"b_frames": 2}, {"key_frame_interval": 16}])
def test_frames_alone_are_those_of_the_whole_clip(change):
    """Bug caught: a frame left out that a chosen one refers to, a jump behind the key frame, another order."""
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    mp4 = encode_clip(np.cumsum(noise // 16, axis=0, dtype=np.uint8), 25.0, ClipConfig(**change))
    whole = decode_clip(mp4)
    assert len(whole) == 40
    for chosen in (range(0, 31, 2), range(9, 40, 2), [39], [17, 3, 3, 30], [16]):
        assert (decode_clip(mp4, chosen) == whole[list(chosen)]).all()


def test_a_window_costs_half_of_the_frames_between(monkeypatch):
    """Bug caught: frames decoded that nothing refers to and nobody asked for, which are half of all."""
    import pipeline.media.decode as decode

    judged = []
    original = decode._is_referred_to
    monkeypatch.setattr(decode, "_is_referred_to", lambda packet: judged.append(original(packet)) or judged[-1])
    mp4 = encode_clip(np.zeros((64, 64, 64, 3), np.uint8), 25.0, ClipConfig())
    decode_clip(mp4, range(16, 48, 2))
    assert judged.count(False) >= 20


def test_a_damaged_clip_is_an_error_and_not_a_picture():
    with pytest.raises(RejectError):
        decode_clip(b"\x00" * 1000)
    mp4 = encode_clip(np.zeros((20, 64, 64, 3), np.uint8), 25.0, ClipConfig())
    with pytest.raises(RejectError):
        decode_clip(mp4, [20])
