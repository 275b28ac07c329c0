"""One CUDA device for every test of this folder; where there is none each test skips and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.pretraining import face_dataset


@pytest.fixture(autouse=True)
def device() -> torch.device:
    """The device under test."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces: six training clips and two validation clips."""
    return face_dataset(tmp_path_factory.mktemp("faces") / "dataset")
