from __future__ import annotations

from pathlib import Path

from tests.support.layouts import lrs2, put, split_list

UTTERANCES = {
    "mvlrs/main/55/00001": ("WHEN YOU'RE COOKING", b"video"),
    "mvlrs/main/55/00002": ("THE  NEXT ONE", b"video"),
    "mvlrs/main/77/00001": ("UNLISTED", b"video"),
    "mvlrs/pretrain/55/00009": ("LONG", b"video"),
}
SPLITS = {"mvlrs/train": ["55/00001"], "mvlrs/test": ["55/00002 NF"]}


def test_words_identity_and_split_come_along(tmp_path: Path, listed) -> None:
    """Bug caught: the second column of test.txt taken for part of a name; words of another utterance."""
    videos = listed(lrs2(tmp_path / "d", UTTERANCES, SPLITS))
    assert {name: (video.labels, video.identity, video.split) for name, video in videos.items()} == {
        "mvlrs/main/55/00001.mp4": ({"text": "WHEN YOU'RE COOKING"}, "lrs2-55", "train"),
        "mvlrs/main/55/00002.mp4": ({"text": "THE NEXT ONE"}, "lrs2-55", "test"),
        "mvlrs/main/77/00001.mp4": ({"text": "UNLISTED"}, "lrs2-77", None),
        "mvlrs/pretrain/55/00009.mp4": ({"text": "LONG"}, "lrs2-55", "train"),
    }


def test_configured_lists_win_over_those_beside_the_videos(tmp_path: Path, listed) -> None:
    """Bug caught: a list that is asked for and ignored."""
    lists = {"val": split_list(tmp_path / "val.json", ["main/55/00001"])}
    videos = listed(lrs2(tmp_path / "d", UTTERANCES, SPLITS), lrs2=lists)
    assert videos["mvlrs/main/55/00001.mp4"].split == "val"
    assert videos["mvlrs/main/55/00002.mp4"].split is None


def test_numbers_without_words_are_no_utterance_and_links_are_not_read(tmp_path: Path, listed) -> None:
    """Bug caught: any folder main/1/2.mp4 taken for LRS2; a link that puts another file's first line into labels."""
    put(tmp_path / "secret", b"Text: SECRET\n")
    for name, text in (("1", None), ("2", b""), ("3", b"a note"), ("4", b"Text"), ("5", b"\xff\xfe: x\n")):
        put(tmp_path / "d" / "main" / "1" / f"{name}.mp4", b"video")
        if text is not None:
            put(tmp_path / "d" / "main" / "1" / f"{name}.txt", text)
    (tmp_path / "d" / "main" / "1" / "1.txt").symlink_to(tmp_path / "secret")
    assert not any(video.labels or video.identity for video in listed(tmp_path / "d").values())
