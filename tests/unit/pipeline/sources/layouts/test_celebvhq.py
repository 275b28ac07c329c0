from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.rows import Cut
from pipeline.sources.layouts import celebvhq as layout
from tests.support.layouts import CelebClip, celebvhq, split_list

FEELINGS = [{"emotion": emotion} for emotion in ("sad", "fear", "sad")]
CLIPS = {
    "-a_b_0": CelebClip("-a_b", 1.5, 3.0, (0.1, 0.2, 0.6, 0.9), ("male", "young"), ("talk",), "happy"),
    "-a_b_1": CelebClip("-a_b", 4.0, 6.0, (-0.01, 0.0, 0.5, 1.002), emotion=FEELINGS),
    "c_0": CelebClip("c"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = {"raw/-a_b.mkv": b"uncut", "cut/-a_b_1.mp4": b"cut", "cut/c_0.mp4": b"cut", "raw/unknown.mp4": b"other"}
    return celebvhq(tmp_path / "celeb", CLIPS, videos)


def test_an_uncut_file_is_as_many_videos_as_clips_and_a_cut_one_is_never_cut_again(folder: Path, listed) -> None:
    """Bug caught: duration and box applied twice; one clip of a video lost; the sides of the box exchanged."""
    videos = listed(folder)
    assert {name: video.cut for name, video in videos.items()} == {
        "raw/-a_b.mkv#-a_b_0": Cut(1.5, 3.0, (0.1, 0.2, 0.6, 0.9)),
        "raw/-a_b.mkv#-a_b_1": Cut(4.0, 6.0, (0.0, 0.0, 0.5, 1.0)),
        "cut/-a_b_1.mp4": None,
        "cut/c_0.mp4": None,
        "raw/unknown.mp4": None,
    }
    assert videos["raw/-a_b.mkv#-a_b_0"].place == str(folder / "raw" / "-a_b.mkv")
    assert len({video.fingerprint for video in videos.values() if video.cut}) == 1  # of the file: read once for all
    assert videos["raw/unknown.mp4"].labels == {}


def test_labels_are_75_columns_and_the_emotion(folder: Path, listed) -> None:
    """Bug caught: attributes shifted by one; a list of emotions that no table can hold."""
    videos = listed(folder)
    labels = videos["raw/-a_b.mkv#-a_b_0"].labels
    assert len(labels) == 76
    assert {name for name, value in labels.items() if value == 1} == {
        "appearance.male",
        "appearance.young",
        "action.talk",
    }
    assert labels["emotion"] == "happy"
    assert videos["cut/-a_b_1.mp4"].labels["emotion"] == "sad;fear"
    assert {video.identity for video in videos.values()} == {"celebvhq--a_b", "celebvhq-c", None}


def test_the_drawn_split_is_80_10_10_and_keeps_a_video_together(tmp_path: Path, listed) -> None:
    """Bug caught: clips of one YouTube video, so of one face, on both sides; shares that are not those promised."""
    clips = {f"v{number}_{part}": CelebClip(f"v{number}") for number in range(500) for part in range(2)}
    videos = listed(celebvhq(tmp_path / "celeb", clips, {f"{name}.mp4": b"" for name in clips}))
    count = Counter(video.split for video in videos.values())
    assert 740 < count["train"] < 860
    assert 60 < count["val"] < 140
    assert 60 < count["test"] < 140
    assert len({(video.identity, video.split) for video in videos.values()}) == 500


def test_an_official_split_is_by_clip(folder: Path, tmp_path: Path, listed) -> None:
    """Bug caught: a list that is ignored; clips that no list names drawn into test all the same."""
    lists = {"test": split_list(tmp_path / "test.json", ["c_0.mp4", "-a_b_0"])}
    splits = {name: video.split for name, video in listed(folder, celebvhq=lists).items() if video.labels}
    assert {name for name, split in splits.items() if split == "test"} == {"cut/c_0.mp4", "raw/-a_b.mkv#-a_b_0"}
    assert set(splits.values()) == {"test", None}


def test_the_info_file_is_found_beside_or_above_but_not_beyond_the_source(folder: Path, listed) -> None:
    """Bug caught: a subfolder given as source that has no labels; a file far above that labels a stranger's videos."""
    assert len(listed(folder / "raw")["-a_b.mkv#-a_b_0"].labels) == 76
    deeper = folder / "raw" / "deep" / "er"
    deeper.mkdir(parents=True)
    os.link(folder / "raw" / "-a_b.mkv", deeper / "-a_b.mkv")
    assert list(listed(deeper)) == ["-a_b.mkv"]
    assert len(listed(folder / "raw")) == 5
    assert len(listed(folder / "raw" / "-a_b.mkv")) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info: info.pop("clips"), "clips"),
        (lambda info: info["clips"]["c_0"].pop("bbox"), r"clips\.c_0\.bbox"),
        (lambda info: info["clips"]["c_0"]["bbox"].update(left=0.5, right=0.5), "holds nothing"),
        (lambda info: info["clips"]["c_0"]["bbox"].update(left=float("nan")), "finite"),
        (lambda info: info["clips"]["c_0"]["duration"].update(end_sec=0), "before it begins"),
        (lambda info: info["clips"]["c_0"]["attributes"]["action"].pop(), "c_0 has not as many attributes"),
        (lambda info: info["clips"]["c_0"]["attributes"]["action"].__setitem__(0, 2), "action"),
        (lambda info: info.__setitem__("clips", [[[[]]]]), "clips"),
    ],
)
def test_a_damaged_info_file_is_one_sentence_that_names_the_place(folder: Path, listed, change, words: str) -> None:
    """Bug caught: a traceback; a clip without a box taken whole; labels of the wrong names."""
    path = folder / "celebvhq_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=rf"celebvhq_info.json is damaged \(.*{words}.*fetch it again"):
        listed(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 1_000_000, b'{"clips": "\\ud800"}'])
def test_bytes_that_are_no_json_are_one_sentence(folder: Path, listed, data: bytes) -> None:
    """Bug caught: a crash of the interpreter for a file of brackets."""
    (folder / "celebvhq_info.json").write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        listed(folder)


def test_an_info_file_too_large_to_be_one_is_not_read(folder: Path, listed, monkeypatch) -> None:
    """Bug caught: memory filled by a file somebody put there."""
    monkeypatch.setattr(layout, "MAX_INFO_BYTES", 1 << 10)
    with pytest.raises(ConfigError, match="is larger than"):
        listed(folder)


def test_a_link_that_leaves_the_source_is_no_info_file(folder: Path, tmp_path: Path, listed) -> None:
    """Bug caught: labels read from anywhere on the disk."""
    os.rename(folder / "celebvhq_info.json", tmp_path.parent / "elsewhere.json")
    (folder / "celebvhq_info.json").symlink_to(tmp_path.parent / "elsewhere.json")
    assert not any(video.labels for video in listed(folder).values())
