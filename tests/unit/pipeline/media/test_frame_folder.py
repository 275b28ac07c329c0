import os

import numpy as np
import pytest
from PIL import Image

from pipeline.media import frame_folder
from pipeline.media.frames import open_frames
from pipeline.media.probe import probe
from pipeline.places import frames_place
from pipeline.rejects import RejectError
from pipeline.rows import Cut, RejectReason, VideoInfo


@pytest.fixture
def folder(tmp_path, numbered):
    """Frames 8 … 27 of a video named 3, as YouTube Faces names them: 3.8.jpg comes before 3.10.jpg by number only."""
    path = tmp_path / "3"
    path.mkdir()
    for number in range(8, 28):
        Image.fromarray(numbered(number)).save(path / f"3.{number}.jpg", quality=95)
    return path


def all_frames(folder, cut=None, chunk=8):
    return np.concatenate([frames for _, frames in open_frames(frames_place(str(folder)), cut).iter_chunks(chunk)])


def test_frames_come_in_numeric_order_at_24_per_second(folder, numbers):
    """Bug caught: 3.10.jpg before 3.8.jpg; 25 frames per second for want of a container."""
    (folder / "notes.txt").write_text("no frame")
    (folder / "3.jpg.bak").write_text("no frame")
    assert numbers(all_frames(folder)) == list(range(8, 28))
    assert probe(frames_place(str(folder))) == VideoInfo(width=96, height=64, fps=24.0, frames=20)


def test_chunks_count_from_zero_and_do_not_change_the_frames(folder):
    """Bug caught: frame numbers of the file names where numbers of the video are due."""
    video = open_frames(frames_place(str(folder)))
    assert [(start, len(frames)) for start, frames in video.iter_chunks(8)] == [(0, 8), (8, 8), (16, 4)]
    assert np.array_equal(all_frames(folder, chunk=3), all_frames(folder, chunk=64))


def test_a_cut_counts_in_24ths_of_a_second(folder, numbers):
    """Bug caught: a cut that is ignored for folders."""
    cut = Cut(2 / 24, 5 / 24, (0.0, 0.0, 1.0, 0.5))
    assert numbers(all_frames(folder, Cut(2 / 24, 5 / 24))) == [10, 11, 12]
    assert all_frames(folder, cut).shape == (3, 32, 96, 3)
    assert probe(frames_place(str(folder)), cut=cut) == VideoInfo(width=96, height=32, fps=24.0, frames=3)


def test_damaged_frames_are_left_out_and_named_so(folder, numbers, numbered):
    """Bug caught: half a picture painted grey and taken for a frame; one bad file that costs the whole video."""
    whole = (folder / "3.9.jpg").read_bytes()
    (folder / "3.9.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "3.10.jpg").write_bytes(b"")
    (folder / "3.11.jpg").write_text("not found")
    (folder / "3.12.jpg").unlink()
    Image.fromarray(numbered(13, 200, 100)).save(folder / "3.13.jpg")
    Image.fromarray(numbered(14)).save(folder / "3.14.jpg", format="PNG")
    Image.fromarray(numbered(15)).convert("CMYK").save(folder / "3.15.jpg", quality=95)
    video = open_frames(frames_place(str(folder)))
    for _ in range(2):
        frames = np.concatenate([frames for _, frames in video.iter_chunks(4)])
        assert numbers(frames) == [8, *range(15, 28)]
        assert video.names == ["3.8.jpg", *(f"3.{number}.jpg" for number in range(15, 28))]


def test_nothing_outside_the_folder_is_read(folder, tmp_path, numbers):
    """Bug caught: a link in a downloaded tree that brings in another person's picture, a pipe that hangs the worker."""
    secret = tmp_path / "secret.jpg"
    os.rename(folder / "3.20.jpg", secret)
    (folder / "3.20.jpg").symlink_to(secret)
    (folder / "3.21.jpg").unlink()
    os.mkfifo(folder / "3.21.jpg")
    assert numbers(all_frames(folder)) == [*range(8, 20), *range(22, 28)]
    assert frame_folder._open(str(folder / "3.20.jpg")) is None  # put there after the listing
    assert frame_folder._open(str(folder / "3.21.jpg")) is None


def test_a_frame_too_large_for_one_is_not_read(folder, numbers, monkeypatch):
    """Bug caught: a file of gigabytes under a frame's name read into memory."""
    monkeypatch.setattr(frame_folder, "MAX_FRAME_BYTES", 1 << 20)
    with (folder / "3.9.jpg").open("ab") as file:
        file.truncate(2 << 20)
    assert numbers(all_frames(folder)) == [8, *range(10, 28)]


@pytest.mark.parametrize("how", ["absent", "no frames", "no pictures", "too large"])
def test_what_is_no_video_is_a_reject_with_its_reason(folder, how):
    """Bug caught: a traceback for an empty folder; a picture of a billion pixels that is decoded to be refused."""
    reason, limit = RejectReason.EMPTY, None
    for path in folder.iterdir() if how != "too large" else ():
        path.write_bytes(b"") if how == "no pictures" else path.unlink()
    if how == "absent":
        folder.rmdir()
        reason = RejectReason.UNREADABLE
    elif how == "no pictures":
        reason = RejectReason.DECODE_FAILED
    elif how == "too large":
        reason, limit = RejectReason.TOO_LARGE, 96 * 64 - 1
    with pytest.raises(RejectError) as caught:
        probe(frames_place(str(folder)), limit)
    assert caught.value.reason is reason
    if how != "too large":
        with pytest.raises(RejectError) as caught:
            all_frames(folder)
        assert caught.value.reason is reason
