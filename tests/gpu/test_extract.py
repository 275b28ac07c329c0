"""Features of videos on a GPU, by the command and by the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import Marlin
from model.extract import extract
from model.extract_config import ExtractConfig
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from pipeline.config import ClipConfig
from pipeline.media.encode import encode_clip
from tests.support.clip_dataset import drawn_face

pytestmark = pytest.mark.gpu


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """100 frames of a drawn face, 224×224."""
    (tmp_path / "face.mp4").write_bytes(encode_clip(drawn_face(100, 3)[0], 25.0, ClipConfig()))
    return tmp_path / "face.mp4"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network with random weights."""
    torch.manual_seed(0)
    network = build_mae(model_config("marlin_vit_tiny"))
    save_weights(tmp_path / "weights.safetensors", network.state_dict(), network.config, {})
    return tmp_path / "weights.safetensors"


def test_the_command_gives_the_features_of_the_cpu(video: Path, weights: Path, tmp_path: Path):
    """Catches windows that change their order or their pixels on the way to the GPU."""
    found = {}
    for name in ("cpu", "cuda"):
        cfg = ExtractConfig(
            videos=(str(video),), weights=str(weights), out=str(tmp_path / name), crop="none", device=name
        )
        done = extract(cfg)[0]
        assert done.features is not None
        found[name] = np.load(done.features)
    assert found["cuda"].shape == (4, 192)
    np.testing.assert_allclose(found["cuda"], found["cpu"], atol=1e-4)


def test_the_library_leaves_features_where_the_network_is(video: Path, weights: Path, device: torch.device):
    """Catches features on another device than marlin-pytorch returns them on."""
    network = Marlin.from_file("marlin_vit_tiny", weights)
    wanted = network.extract_video(video)
    found = network.to(device).extract_video(video)
    assert found.device.type == device.type
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-4, rtol=0)
