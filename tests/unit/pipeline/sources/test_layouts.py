from __future__ import annotations

import pytest

from pipeline.sources.layouts import labels_of_path


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
    ],
)
def test_faceforensics_folders_tell_label_method_and_compression(path: str, labels: tuple, identity: str) -> None:
    """Bug caught: a fake labelled real; an original parted from the fakes made of it; actor 01 mixed with video 01."""
    found, person = labels_of_path(path)
    assert (found["label"], found["manipulation"], found["compression"]) == labels
    assert person == identity


@pytest.mark.parametrize(
    "path", ["/d/004.mp4", "/d/original_sequences/youtube/c23/masks/004.mp4", "/original_sequences/x.mp4"]
)
def test_other_folders_tell_nothing(path: str) -> None:
    """Bug caught: labels guessed from a folder that merely resembles the layout (masks are not videos)."""
    assert labels_of_path(path) == ({}, None)
