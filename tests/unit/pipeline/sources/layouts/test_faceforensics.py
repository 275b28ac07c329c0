from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipeline.sources.layouts import Layouts
from tests.support.layouts import faceforensics, split_list


@pytest.mark.parametrize(
    ("path", "labels", "identity"),
    [
        ("/d/original_sequences/youtube/c23/videos/004.mp4", ("real", "none", "c23"), "ffpp-004"),
        (
            "/d/manipulated_sequences/NeuralTextures/c40/videos/004_982.mp4",
            ("fake", "NeuralTextures", "c40"),
            "ffpp-004",
        ),
        ("/d/manipulated_sequences/My Own/c0/videos/004_982.mp4", ("fake", "My Own", "c0"), "ffpp-004"),
        ("/d/original_sequences/actors/c23/videos/01__walking.mp4", ("real", "none", "c23"), "ffpp-actor-01"),
        (
            "/d/manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit_phone_room__YVGY8LOK.mp4",
            ("fake", "DeepFakeDetection", "c23"),
            "ffpp-actor-01",
        ),
    ],
)
def test_folders_tell_label_method_and_compression(path: str, labels: tuple, identity: str) -> None:
    """Bug caught: a fake labelled real; an original parted from the fakes made of it; actor 01 mixed with video 01."""
    (video,) = Layouts().describe(path, "/d")
    assert (video.labels["label"], video.labels["manipulation"], video.labels["compression"]) == labels
    assert video.identity == identity


@pytest.mark.parametrize(
    ("stem", "donor"), [("004_982.mp4", "ffpp-982"), ("01_02__exit__YVGY8LOK.mp4", "ffpp-actor-02"), ("004.mp4", None)]
)
def test_a_fake_tells_whose_face_was_put_in(stem: str, donor: str | None) -> None:
    """Bug caught: a fake of 982's face that is trained on while 982's own video is tested."""
    (video,) = Layouts().describe(f"/d/manipulated_sequences/FaceSwap/c23/videos/{stem}", "/d")
    assert video.labels.get("donor") == donor


@pytest.mark.parametrize(
    "path", ["/d/004.mp4", "/d/original_sequences/youtube/c23/masks/004.mp4", "/original_sequences/x.mp4"]
)
def test_other_folders_tell_nothing(path: str) -> None:
    """Bug caught: labels guessed from a folder that merely resembles the layout (masks are not videos)."""
    (video,) = Layouts().describe(path, "/")
    assert (video.labels, video.identity, video.split, video.cut) == ({}, None, None, None)


def test_a_pair_splits_its_two_originals_and_the_fakes_of_both(tmp_path: Path, listed) -> None:
    """Bug caught: only the first number of a pair split; an actor's video that takes the split of a number."""
    root = faceforensics(
        tmp_path / "d",
        dict.fromkeys(["004", "982", "071", "054", "500", "04__talking"], b"video"),
        dict.fromkeys(["004_982", "982_004", "054_071"], b"fake"),
    )
    lists = {
        "train": split_list(tmp_path / "train.json", [["004", "982"]]),
        "test": split_list(tmp_path / "test.json", [["071", "054"], ["04", "05"]]),
    }
    videos = {Path(name).stem: video.split for name, video in listed(root, faceforensics=lists).items()}
    assert videos == {
        **dict.fromkeys(["004", "982", "004_982", "982_004"], "train"),
        **dict.fromkeys(["071", "054", "054_071"], "test"),
        "500": None,
        "04__talking": "train",  # whoever the lists mean by 04, it is no actor
    }


def test_a_fake_of_two_splits_is_refused_with_a_sentence(tmp_path: Path, listed) -> None:
    """Bug caught: lists of another dataset that put half of a test pair into training."""
    root = faceforensics(tmp_path / "d", {}, {"004_071": b"fake"})
    lists = {
        "train": split_list(tmp_path / "a.json", [["004", "982"]]),
        "val": split_list(tmp_path / "b.json", [["071", "054"]]),
    }
    with pytest.raises(ConfigError, match=r"004_071.mp4 is made of originals of two splits \(train and val\)"):
        listed(root, faceforensics=lists)


def test_the_real_pair_keeps_its_labels_and_gets_its_split(shared_videos: Path, tmp_path: Path, listed) -> None:
    """Bug caught: the real folder not recognised."""
    lists = {"val": split_list(tmp_path / "val.json", [["004", "982"]])}
    videos = listed(shared_videos / "FaceForensics", faceforensics=lists).values()
    assert sorted((str(video.labels["label"]), video.split, video.identity) for video in videos) == [
        ("fake", "val", "ffpp-004"),
        ("real", "val", "ffpp-004"),
    ]
