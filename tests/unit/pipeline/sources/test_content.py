from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.places import frames_folder, frames_place, locator
from pipeline.rows import Cut, ListedVideo
from pipeline.sources.content import content_digest, cut_digest
from pipeline.sources.seen import Sight
from pipeline.sources.staging import source_video

FRAMES = {"3.2.jpg": b"two", "3.10.jpg": b"ten"}


def _folder(path: Path, frames: dict[str, bytes] = FRAMES) -> Path:
    path.mkdir(parents=True)
    for name, data in frames.items():
        (path / name).write_bytes(data)
    return path


def test_a_folder_of_frames_is_known_by_names_and_bytes_of_its_frames_alone(tmp_path: Path) -> None:
    """Bug caught: a moved folder that counts as new; a changed, renamed or added frame that goes unseen."""
    first = _folder(tmp_path / "a" / "3")
    digest, size = content_digest(frames_place(str(first)))
    assert size == 6
    again = _folder(tmp_path / "b" / "other name", dict(reversed(FRAMES.items())))
    (again / "Thumbs.db").write_bytes(b"not a frame")
    (again / "3.11.jpg").symlink_to(first / "3.10.jpg")
    assert content_digest(frames_place(str(again))) == (digest, size)
    for number, frames in enumerate(
        [{**FRAMES, "3.10.jpg": b"TEN"}, {"3.2.jpg": b"two", "3.9.jpg": b"ten"}, {**FRAMES, "3.11.jpg": b""}]
    ):
        assert content_digest(frames_place(str(_folder(tmp_path / "c" / str(number), frames))))[0] != digest


def test_a_folder_without_frames_cannot_be_read(tmp_path: Path) -> None:
    """Bug caught: all empty folders taken for twins of one video."""
    with pytest.raises(FileNotFoundError):
        content_digest(frames_place(str(_folder(tmp_path / "x", {"notes.txt": b""}))))


def test_a_file_is_known_by_its_bytes_whatever_its_name(tmp_path: Path) -> None:
    """Bug caught: a locator opened as if it were a path."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    Path(path).write_bytes(b"abc")
    assert content_digest(locator(path)) == (hashlib.sha256(b"abc").hexdigest(), 3)


def test_a_place_of_frames_and_its_folder_are_inverses() -> None:
    """Bug caught: a folder whose name is no UTF-8 that cannot be planned, or a file taken for a folder of frames."""
    for folder in ("/a/frames:b", os.fsdecode(b"/bytes-\xff%41")):
        place = frames_place(folder)
        place.encode()
        assert frames_folder(place) == folder
    assert frames_folder("/a/frames:b") is None


def test_parts_of_a_file_are_videos_of_their_own_and_an_uncut_one_is_the_file() -> None:
    """Bug caught: two clips of one CelebV-HQ video taken for twins; one clip seen twice since 1 s is not 1.0 s."""
    cuts = [Cut(1.0, 2.0), Cut(1.0, 3.0), Cut(1.0), Cut(0.0, None, (0.0, 0.0, 0.5, 1.0)), Cut(0.0, 2.0)]
    assert len({cut_digest("c" * 64, cut) for cut in cuts}) == len(cuts)
    assert cut_digest("c" * 64, Cut(1, 2, (0, 0, 1, 1))) == cut_digest("c" * 64, Cut(1.0, 2.0, (0.0, 0.0, 1.0, 1.0)))
    assert cut_digest("c" * 64, Cut(1.0)) != cut_digest("d" * 64, Cut(1.0))
    assert cut_digest("c" * 64, None) == "c" * 64


def test_a_cut_video_keeps_the_digest_of_its_file(tmp_path: Path) -> None:
    """Bug caught: a worker that cannot tell whether the file is still the planned one."""
    (tmp_path / "a.mp4").write_bytes(b"abc")
    listed = ListedVideo(str(tmp_path / "a.mp4"), "a.mp4")
    whole = source_video(listed, Sight(*content_digest(listed.place)), listed.place)
    assert (whole.digest, whole.content) == (hashlib.sha256(b"abc").hexdigest(), "")
