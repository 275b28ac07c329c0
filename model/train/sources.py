"""The training and validation clips of a run, as its settings describe them."""

from __future__ import annotations

import logging
import os

from model.data.source import ClipSource
from model.train.networks import model_shape
from model.train_config import PretrainConfig
from pipeline.dataset.reader import DatasetReader, open_dataset

logger = logging.getLogger(__name__)

VALIDATION_SEED = 0
MOST_WORKERS = 16
"""Threads beyond these wait for the interpreter."""


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
    """Return the validation clips, None when there are none or none are wanted.

    Clips, windows and masks are those of a fixed seed, unmirrored: runs with other seeds are measured on the same.
    """
    if not cfg.data.val_clips:
        return None
    if not reader.version.units.pretrain(cfg.data.val_split).any():
        logger.warning("version %d has no '%s' clip; nothing is validated", reader.version.version, cfg.data.val_split)
        return None
    as_stored = {"seed": VALIDATION_SEED, "data": cfg.data.model_copy(update={"flip": False})}
    return open_source(cfg.model_copy(update=as_stored), reader, cfg.data.val_split)


def reading_workers(wanted: int | None, ranks_here: int, *, on_gpu: bool) -> int:
    """Return how many threads or processes a rank reads with, of ``ranks_here`` on this machine."""
    if wanted is not None:
        return wanted
    return min(max(len(os.sched_getaffinity(0)) // ranks_here, 2), MOST_WORKERS) if on_gpu else 2


def reopen_training(cfg: PretrainConfig, version: int) -> ClipSource:
    """Return the training clips of a version, opened anew: in a process that only reads."""
    return open_source(cfg, open_dataset(cfg.data.dataset, version), cfg.data.split)
