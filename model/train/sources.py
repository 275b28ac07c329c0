"""The training and validation clips of a run, as its settings describe them."""

from __future__ import annotations

import logging

from model.data.source import ClipSource
from model.train.networks import model_shape
from model.train_config import PretrainConfig
from pipeline.dataset.reader import DatasetReader, open_dataset

logger = logging.getLogger(__name__)


def open_source(cfg: PretrainConfig, reader: DatasetReader, split: str) -> ClipSource:
    """Return the clips of a split as this run reads them; errors as ``ClipSource``."""
    return ClipSource(
        reader,
        split,
        model_shape(cfg),
        cfg.mask,
        seed=cfg.seed,
        shuffle_shards=cfg.data.shuffle_shards,
        flip=cfg.data.flip,
        read_attempts=cfg.data.read_attempts,
        cache_bytes=cfg.data.cache_mb * 1_000_000,
    )


def open_validation(cfg: PretrainConfig, reader: DatasetReader) -> ClipSource | None:
    """Return the validation clips, None when there are none or none are wanted."""
    if not cfg.data.val_clips:
        return None
    if not reader.version.units.pretrain(cfg.data.val_split).any():
        logger.warning("version %d has no '%s' clip; nothing is validated", reader.version.version, cfg.data.val_split)
        return None
    return open_source(cfg, reader, cfg.data.val_split)


def reopen_training(cfg: PretrainConfig, version: int) -> ClipSource:
    """Return the training clips of a version, opened anew: in a process that only reads."""
    return open_source(cfg, open_dataset(cfg.data.dataset, version), cfg.data.split)
