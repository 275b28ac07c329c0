"""A dataset of numbered frames in three shards, one of them without training clips."""

from pathlib import Path

import pytest

from model.data.source import ClipSource
from model.nets.config import model_config
from model.train_config import MaskConfig
from pipeline.dataset.reader import open_dataset
from tests.support.clip_dataset import write_clip_dataset

UNITS = [{"anna": [64, 40, 20], "val-dora": [32]}, {"val-emil": [64]}, {"bela": [32, 64], "cleo": [31]}]
"""Training clips fit for pretraining: 64 and 40 frames in the first shard, 32 and 64 in the third."""


@pytest.fixture(scope="session")
def numbered_dataset(tmp_path_factory) -> Path:
    """Folder of the dataset."""
    return write_clip_dataset(tmp_path_factory.mktemp("numbered") / "dataset", UNITS)


@pytest.fixture
def open_numbered(numbered_dataset):
    """Return a function that opens a source: ``open_numbered(split="train", seed=0, overrides={}, **options)``."""

    def open_source(split: str = "train", seed: int = 0, overrides: dict | None = None, **options) -> ClipSource:
        model = model_config("marlin_vit_tiny", **(overrides or {}))
        mask = options.pop("mask", MaskConfig())
        return ClipSource(open_dataset(str(numbered_dataset)), split, model, mask, seed=seed, **options)

    return open_source
