"""A network so small that any test may run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights

SMALL = model_config(
    "marlin_vit_tiny", image_size=112, encoder_dim=48, encoder_depth=1, encoder_heads=3, decoder_dim=32, decoder_depth=1
)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weight file of both halves, at random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, build_mae(SMALL).state_dict(), SMALL, {})
    return path
