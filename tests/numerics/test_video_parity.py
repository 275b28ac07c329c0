"""``extract_video`` sees the windows that marlin-pytorch sees, pixel by pixel, on real videos and short ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import marlin_pytorch
import numpy as np
import pytest
import torch
import torchvision
from marlin_pytorch.config import register_model_from_yaml as register_theirs

from model import Marlin, register_model_from_yaml
from pipeline.config import ClipConfig
from pipeline.media.encode import encode_clip
from tests.support.marlin_shapes import write_shape


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[marlin_pytorch.Marlin, Marlin]:
    """The same weights in both classes, from one YAML file and one file that marlin-pytorch wrote."""
    folder = tmp_path_factory.mktemp("peer")
    shape = str(write_shape(folder / "shape.yaml"))
    register_theirs("peer", shape)
    register_model_from_yaml("peer", shape)
    path = str(folder / "peer.pt")
    torch.save(_random_theirs().state_dict(), path)
    return marlin_pytorch.Marlin.from_file("peer", path), Marlin.from_file("peer", path)


@pytest.fixture(autouse=True)
def parts_that_theirs_lacks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls ffprobe, which no package registry has, and a reader that torchvision has dropped; both on PyAV."""

    def stated_frames(path: str) -> dict[str, Any]:
        with av.open(path) as container:
            return {"streams": [{"nb_frames": str(container.streams.video[0].frames)}]}

    def read_video(path: str) -> tuple[torch.Tensor, None, None]:
        with av.open(path) as container:
            frames = [frame.to_rgb().to_ndarray() for frame in container.decode(video=0)]
        return torch.from_numpy(np.stack(frames)), None, None

    monkeypatch.setattr("marlin_pytorch.model.marlin.ffmpeg.probe", stated_frames)
    monkeypatch.setattr(torchvision.io, "read_video", read_video, raising=False)


def _random_theirs() -> marlin_pytorch.Marlin:
    torch.manual_seed(0)
    return marlin_pytorch.Marlin(
        224, 16, 16, 48, 2, 3, 32, 1, 2, 4.0, True, None, 0.0, 0.0, "LayerNorm", 0.0, 2, as_feature_extractor=False
    )


def assert_same_rows(both: tuple[marlin_pytorch.Marlin, Marlin], path: Path, rows: int | None, **settings: Any) -> None:
    theirs, ours = (network.extract_video(str(path), **settings) for network in both)
    assert rows is None or len(theirs) == rows
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, 4),
        ({"sample_rate": 1}, 8),
        ({"sample_rate": 3, "stride": 5}, 7),
        ({"stride": 8}, 7),
        ({"stride": 40}, 2),
        ({"sample_rate": 9}, 1),
        ({"keep_seq": True}, 4),
        ({"reduction": "mean"}, None),
        ({"reduction": "max", "keep_seq": True}, None),
        ({"crop_face": False, "detector_device": "cpu"}, 4),
    ],
)
def test_the_windows_of_a_real_face_video_are_theirs(both, shared_videos, settings, rows):
    """143 frames of 224×224. Catches other starts, other frames, other pixels, another order and another shape."""
    assert_same_rows(both, shared_videos / "cropped01.mp4", rows, **settings)


@pytest.mark.parametrize("frames", [1, 5, 16, 17, 31, 32, 33, 64, 65])
def test_short_videos_are_read_as_theirs_are(both, tmp_path, frames):
    """Catches other padding, a stride where there is none, and `<=` for `<` at the edges."""
    rng = np.random.default_rng(frames)
    coarse = rng.integers(0, 256, (frames, 7, 7, 3), dtype=np.uint8)
    images = coarse.repeat(32, axis=1).repeat(32, axis=2)
    (tmp_path / "short.mp4").write_bytes(encode_clip(images, 25.0, ClipConfig()))
    assert_same_rows(both, tmp_path / "short.mp4", 2 if frames == 65 else 1)


def test_a_real_video_shorter_than_a_strided_window_is_read_as_theirs_is(both, shared_videos):
    """27 frames of 224×224."""
    assert_same_rows(both, shared_videos / "cropped05.mp4", 1)


def test_the_tail_window_comes_behind_theirs(both, shared_videos):
    """Catches a tail that changes the windows before it; theirs leaves the last 15 of 143 frames out."""
    theirs, ours = both
    path = str(shared_videos / "cropped01.mp4")
    rows = ours.extract_video(path, keep_tail=True)
    assert len(rows) == 5
    torch.testing.assert_close(rows[:4], theirs.extract_video(path), atol=1e-5, rtol=0)


def test_frames_of_another_size_are_padded_where_theirs_refuses_them(both, shared_videos):
    """The documented difference: 470×360 frames fail an assertion there."""
    theirs, ours = both
    path = str(shared_videos / "video03.mp4")
    with pytest.raises(AssertionError):
        theirs.extract_video(path)
    assert ours.extract_video(path).shape == (7, 48)
