import numpy as np
import pytest

from pipeline.media import decode
from pipeline.media.cut import box_pixels, crop_to_box, cut_info, frame_range
from pipeline.media.decode import VideoFrames
from pipeline.media.frames import open_frames
from pipeline.media.probe import probe
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, VideoInfo


def all_frames(video, chunk=8):
    chunks = list(video.iter_chunks(chunk))
    assert [start for start, _ in chunks] == list(np.cumsum([0, *(len(f) for _, f in chunks)])[:-1])
    return np.concatenate([frames for _, frames in chunks])


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that are really decoded."""
    count, plainly = [], decode.decodable

    def counted(*how):
        for frame in plainly(*how):
            count.append(1)
            yield frame

    monkeypatch.setattr(decode, "decodable", counted)
    return count


OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3:threads=1"}
SOURCES = [
    {"name": "a.mp4", "options": {"g": "10", "bf": "0"}},
    {"name": "a.mp4", "options": {"g": "10", "bf": "3"}},
    {"name": "a.mp4", "options": {"g": "1000"}},
    {"name": "a.mkv", "options": OPEN_GOP},
    {"name": "a.ts", "options": OPEN_GOP},
    {"name": "a.avi", "codec": "mpeg4", "options": {"g": "10"}},
    {"name": "a.webm", "codec": "libvpx-vp9", "options": {"g": "10"}},
    {"name": "a.h264", "options": {"g": "10", "bf": "3"}},
]


@pytest.mark.parametrize("how", SOURCES, ids=lambda how: "-".join(str(value) for value in how.values()))
@pytest.mark.parametrize("lead_s", [0.0, 1.0])
def test_a_cut_has_exactly_the_frames_that_a_full_pass_has_there(make_video, numbers, monkeypatch, how, lead_s):
    """Bug caught: a jump that lands behind the start, smears the first frames, or counts from the key frame.

    A lead of 0 s makes every jump as hard as it can be; raw H.264 and AVI do not tell times, or not well.
    """
    monkeypatch.setattr(decode, "SEEK_LEAD_S", lead_s)
    path = str(make_video(frames=60, **how))
    fps = probe(path).fps  # raw H.264 knows no better than 25
    whole = np.concatenate([frames for _, frames in VideoFrames(path).iter_chunks(32)])
    for first, stop in ((0, 5), (1, 60), (9, 12), (40, 59), (43, 44)):
        cut = Cut(first / fps, stop / fps)
        frames = all_frames(open_frames(path, cut))
        assert numbers(frames) == list(range(first, stop))
        assert np.array_equal(frames, whole[first:stop])


def test_no_more_is_decoded_than_the_way_from_a_key_frame(make_video, numbers, decoded):
    """Bug caught: a two-hour video decoded from its start for each of its clips, or to its end."""
    path = str(make_video("a.mp4", frames=60, options={"g": "5", "bf": "0"}))
    assert numbers(all_frames(open_frames(path, Cut(50 / 30, 53 / 30)))) == [50, 51, 52]
    assert len(decoded) <= 30 + 5 + 3 + 1  # the lead of 1 s, a key-frame distance, the cut, the frame that ends it


def test_rounded_seconds_do_not_lose_or_add_a_frame(make_video, numbers):
    """Bug caught: 0.333 s of a label file taken for before frame 10, at 0.3333 s, or for behind it."""
    path = str(make_video("a.mp4", frames=30))
    assert numbers(all_frames(open_frames(path, Cut(0.3334, 0.6667)))) == list(range(10, 20))
    assert numbers(all_frames(open_frames(path, Cut(0.3333, 0.6666)))) == list(range(10, 20))


def test_the_time_of_a_frame_decides_where_the_rate_varies(make_video, numbers):
    """Bug caught: seconds turned to frame numbers by the mean rate, which points elsewhere in such a video."""
    path = str(make_video("a.mp4", frames=20, durations=(256, 512, 2048)))  # shown at 0, 1, 3, 11, 12, 14, 22 … / 60 s
    assert numbers(all_frames(open_frames(path, Cut(11 / 60, 22 / 60)))) == [3, 4, 5]


def test_a_box_is_cut_out_of_the_upright_frame(make_video, rotate):
    """Bug caught: fractions applied to the frame as stored, x and y exchanged, the whole frame kept in memory."""
    path = str(rotate(make_video("a.mp4", frames=3)))  # the red quarter is the upper right one once turned
    cut = Cut(0, None, (0.5, 0.0, 1.0, 0.5))
    frames = all_frames(open_frames(path, cut))
    info = probe(path, cut=cut)
    assert frames.shape == (3, 48, 32, 3) == (3, info.height, info.width, 3)
    assert (np.median(frames[0], axis=(0, 1)) - (220, 30, 30)).max() < 15
    assert crop_to_box(np.zeros((8, 8, 3), np.uint8), cut).base is None


def test_a_cut_behind_the_end_is_a_reject_and_one_across_it_gives_what_is_there(make_video, numbers):
    """Bug caught: a wrong label file that looks like a crash, or gives clips of no frames."""
    path = str(make_video("a.mp4", frames=30))
    with pytest.raises(RejectError, match="from 5 s to its end") as caught:
        all_frames(open_frames(path, Cut(5)))
    assert caught.value.reason is RejectReason.DECODE_FAILED
    assert numbers(all_frames(open_frames(path, Cut(28 / 30, 9)))) == [28, 29]
    assert probe(path, cut=Cut(28 / 30, 9)).frames == 2


def test_a_damaged_part_is_the_same_in_both_passes(make_video, numbers):
    """Bug caught: a second pass whose frames do not fit the boxes of the first."""
    path = make_video("a.mp4", frames=60, container={"movflags": "+faststart"}, options={"g": "10", "bf": "0"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    video = open_frames(str(path), Cut(0.5, None))
    first = all_frames(video)
    assert 5 < len(first) < 45
    assert np.array_equal(first, all_frames(video, 3))
    assert numbers(first)[0] == 15


def test_an_uncut_file_keeps_its_own_decoder(make_video):
    """Bug caught: every video decoded by the slower way for the sake of the few that are cut."""
    assert type(open_frames(str(make_video("a.mp4", frames=1)))) is VideoFrames


def test_frames_of_a_cut_are_timed_by_the_file(make_video):
    """Bug caught: the sound of the file's first seconds beside the pictures of a cut."""
    video = open_frames(str(make_video("a.mp4", frames=60)), Cut(1.5, 1.6))
    all_frames(video)
    assert list(video.seconds) == pytest.approx([45 / 30, 46 / 30, 47 / 30], abs=1e-4)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0.0, 0.0, 1.0, 1.0), (0, 0, 100, 50)),
        ((0.25, 0.5, 0.75, 1.0), (25, 25, 75, 50)),
        ((-0.5, 0.0, 1.5, 2.0), (0, 0, 100, 50)),
        ((0.5, 0.5, 0.5, 0.5), (50, 25, 51, 26)),
        ((1.0, 1.0, 1.0, 1.0), (99, 49, 100, 50)),
    ],
)
def test_a_box_stays_inside_the_frame_and_is_never_empty(box, pixels):
    """Bug caught: an empty array, or a negative index that reads from the other side."""
    assert box_pixels(box, 100, 50) == pixels


def test_an_even_rate_counts_its_frames():
    """Bug caught: a frame on the edge counted twice, or in neither of two neighbouring cuts."""
    assert frame_range(Cut(1.0, 2.0), 100, 24) == range(24, 48)
    assert frame_range(Cut(2.0), 100, 24) == range(48, 100)
    assert frame_range(Cut(9.0, 10.0), 100, 24) == range(216, 100)
    assert len(frame_range(Cut(9.0, 10.0), 100, 24)) == 0
    info = VideoInfo(width=100, height=50, fps=24, frames=100)
    assert cut_info(info, Cut(0, 1, (0, 0, 0.5, 0.5))) == VideoInfo(width=50, height=25, fps=24, frames=24)
