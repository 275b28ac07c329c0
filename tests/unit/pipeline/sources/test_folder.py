from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.config import IngestConfig
from pipeline.places import is_inside, local_path, locator, named_path, printable
from pipeline.sources.content import content_digest
from pipeline.sources.folder import looks_like_video
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import check_sources, open_source

MP4 = b"\x00\x00\x00\x20ftypisom" + bytes(200)


def _names(*sources: Path) -> list[str]:
    return [video.name for source in sources for video in open_source(str(source), Layouts()).list()]


def test_videos_are_found_recursively_by_extension_or_content_and_nothing_else(tmp_path: Path) -> None:
    """Bug caught: a video under a wrong extension missed; text, pictures and hidden files offered as videos."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    for name in ("b.MP4", "a.mov", "deep/er/c.webm", ".hidden.mp4", ".cache/d.mp4"):
        (tmp_path / name).write_bytes(MP4)
    (tmp_path / "video.txt").write_bytes(MP4)
    (tmp_path / "no_extension").write_bytes(MP4)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "readme.md").write_text("# Great. " * 100)
    (tmp_path / "module.ts").write_text("export const x = 1;\n" * 40)
    (tmp_path / "photo.heic").write_bytes(b"\x00\x00\x00\x20ftypheic" + bytes(200))
    assert _names(tmp_path) == ["a.mov", "b.MP4", "deep/er/c.webm", "empty.mp4", "no_extension", "video.txt"]


def test_strange_names_survive_and_can_be_opened(tmp_path: Path) -> None:
    """Bug caught: a newline, quote or stray byte in a name that loses the video or breaks a table."""
    names = ["new\nline.mp4", 'quo\'te "d".mp4', "dots.in.name.mp4", "ünï-日本.mp4", " space .mp4"]
    for name in names:
        (tmp_path / name).write_bytes(MP4 + name.encode())
    raw = os.fsencode(tmp_path) + b"/bytes-\xff.mp4"
    Path(os.fsdecode(raw)).write_bytes(MP4 + b"raw")
    listed = {video.name: video for video in open_source(str(tmp_path), Layouts()).list()}
    assert set(listed) == {*names, "bytes-\\xff.mp4"}
    for video in listed.values():
        (video.place + video.name).encode()  # both can be stored as text
        read = Path(local_path(video.place)).read_bytes()
        assert content_digest(video.place) == (hashlib.sha256(read).hexdigest(), len(read))


def test_a_path_and_its_locator_are_inverses() -> None:
    """Bug caught: a percent sign in a plain path decoded as an escape."""
    for path in ("/plain/100%25.mp4", "/ünï.mp4", os.fsdecode(b"/bytes-\xff%41.mp4")):
        assert local_path(locator(path)) == path
        locator(path).encode()


def test_links_are_followed_inside_the_source_and_never_out_of_it(tmp_path: Path) -> None:
    """Bug caught: a link that makes the crawl read what lies elsewhere, or a linked folder walked in circles."""
    outside, source = tmp_path / "outside", tmp_path / "source"
    outside.mkdir()
    (source / "sub").mkdir(parents=True)
    (outside / "secret.mp4").write_bytes(MP4)
    (source / "sub" / "real.mp4").write_bytes(MP4)
    (source / "inside.mp4").symlink_to("sub/real.mp4")
    (source / "escape.mp4").symlink_to(outside / "secret.mp4")
    (source / "folder").symlink_to(outside)
    (source / "circle").symlink_to(source)
    assert _names(source) == ["inside.mp4", "sub/real.mp4"]


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    """Bug caught: a crawl that hangs for ever on a FIFO named like a video."""
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.mp4").write_bytes(MP4)
    assert _names(tmp_path) == ["a.mp4"]
    with pytest.raises(ConfigError, match="neither a folder nor a file"):
        _names(tmp_path / "pipe")


def test_what_cannot_be_asked_is_listed_all_the_same(tmp_path: Path) -> None:
    """Bug caught: a vanished file that silently drops out of the ledger, or stops the crawl."""
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    (video,) = open_source(str(tmp_path), Layouts()).list()
    assert (video.name, video.bytes, video.fingerprint) == ("gone.mp4", None, None)


def test_a_fingerprint_changes_with_the_bytes_and_young_files_have_none(tmp_path: Path) -> None:
    """Bug caught: a file that is still being copied in remembered half, and never read again."""
    path = tmp_path / "a.mp4"
    path.write_bytes(MP4)
    (young,) = open_source(str(tmp_path), Layouts()).list()
    assert young.fingerprint is None
    os.utime(path, (1e9, 1e9))
    (first,) = open_source(str(tmp_path), Layouts()).list()
    (again,) = open_source(str(path), Layouts()).list()
    assert first.fingerprint == again.fingerprint is not None
    os.utime(path, (1e9, 1e9 + 1))
    (changed,) = open_source(str(tmp_path), Layouts()).list()
    assert changed.fingerprint not in (None, first.fingerprint)


def test_a_single_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """Bug caught: a file named by a person left out for its extension."""
    (tmp_path / "notes.md").write_text("no video")
    (tmp_path / "video.txt").write_bytes(MP4)
    assert _names(tmp_path / "notes.md", tmp_path / "video.txt") == ["notes.md", "video.txt"]
    with pytest.raises(ConfigError, match="does not exist"):
        _names(tmp_path / "absent")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (MP4, True),
        (b"\x1aE\xdf\xa3", True),
        (b"RIFF\0\0\0\0AVI LIST", True),
        (b"RIFF\0\0\0\0WAVEfmt ", False),
        (b"\0\0\0\x20ftypM4A ", False),
        (b"G" + bytes(187) + b"G", True),
        (b"Good morning", False),
        (b"", False),
        (b"\xff\xd8\xff\xe0", False),
    ],
)
def test_containers_are_known_by_their_first_bytes(head: bytes, expected: bool) -> None:
    """Bug caught: sound or text taken for video, a container missed."""
    assert looks_like_video(head) is expected


def test_a_folder_spelled_in_many_ways_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: a folder whose every video is read anew, since it was named from another folder this time."""
    (tmp_path / "a").mkdir()
    (tmp_path / "videos ä").mkdir()
    (tmp_path / "videos ä" / "x.mp4").write_bytes(MP4)
    monkeypatch.chdir(tmp_path / "a")
    whole = str(tmp_path / "videos ä")
    quoted = whole.replace(" ", "%20")
    spellings = ["../videos ä", "./../a//../videos ä/", f"{whole}/.", f"/{whole}", f"file://{quoted}", f"file:{quoted}"]
    for spelling in [*spellings, f"file://localhost{quoted}"]:
        assert [v.place for v in open_source(spelling, Layouts()).list()] == [f"{whole}/x.mp4"], spelling
    assert [v.place for v in open_source("../videos ä/../videos ä/x.mp4", Layouts()).list()] == [f"{whole}/x.mp4"]
    with pytest.raises(ConfigError, match=r"names the machine 'data'; for a path of this machine write file:///"):
        open_source("file://data/videos", Layouts())
    with pytest.raises(ConfigError, match="lies inside its source"):
        check_sources(IngestConfig(sources=(f"file://{quoted}",), out=f"{whole}/out"))


def test_links_keep_their_names_and_a_step_up_from_one_leads_where_the_system_goes(tmp_path: Path) -> None:
    """Bug caught: labels lost with the folder's name; ``link/..`` read as the folder of the link."""
    (tmp_path / "disk" / "release").mkdir(parents=True)
    (tmp_path / "current").symlink_to(tmp_path / "disk" / "release")
    assert named_path(str(tmp_path / "current")) == str(tmp_path / "current")
    assert named_path(str(tmp_path / "current" / "..")) == str(tmp_path / "disk")
    assert os.path.samefile(named_path(str(tmp_path / "current" / "..")), tmp_path / "current" / "..")
    assert named_path("/../..") == "/"
    raw = os.fsdecode(b"/b\xff")
    assert named_path(raw) == raw == named_path("file:///b%FF") == named_path(f"file://{raw}")


def test_inside_is_judged_after_links_are_resolved(tmp_path: Path) -> None:
    """Bug caught: a dataset that hides inside its source behind a link, and is ingested the next night."""
    (tmp_path / "source").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "source")
    assert is_inside(tmp_path / "link" / "dataset", tmp_path / "source")
    assert not is_inside(tmp_path / "source2", tmp_path / "source")
    assert printable(os.fsdecode(b"a\xff")) == "a\\xff"
