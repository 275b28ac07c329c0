"""A pretraining run that takes seconds: a network of two small blocks on drawn faces."""

from __future__ import annotations

import shutil
from pathlib import Path

from infra.config import load_config
from model.train.checkpoint_folder import FOLDER, list_checkpoints
from model.train.run_folder import WEIGHTS
from model.train_config import PretrainConfig
from tests.support.clip_dataset import drawn_face, write_clip_dataset

SMALL_MODEL = (
    "model.name=marlin_vit_tiny", "model.overrides.image_size=112", "model.overrides.encoder_dim=64",
    "model.overrides.encoder_depth=2", "model.overrides.encoder_heads=2", "model.overrides.decoder_dim=32",
    "model.overrides.decoder_depth=1",
)  # fmt: skip


def face_dataset(folder: Path) -> Path:
    """Six training clips and two validation clips of drawn faces, in two shards."""
    return write_clip_dataset(
        folder,
        [{"anna": [40, 36], "bela": [40], "val-cleo": [36]}, {"dora": [36, 40, 36], "val-emil": [32]}],
        drawn_face,
    )


def small_config(dataset: Path, *overrides: str) -> PretrainConfig:
    """Twelve steps of four clips on two ranks; the gradient penalty is on, so that random state matters."""
    return load_config(
        PretrainConfig,
        None,
        [
            f"data.dataset={dataset}", "data.workers=1", *SMALL_MODEL, "global_batch=4", "world_size=2",
            "optim.total_clips=48", "optim.warmup_clips=8", "optim.base_lr=0.2", "adversarial.gp_weight=1.0",
            "optim.discriminator_lr_scale=0.05", "checkpoint.every_steps=5", "checkpoint.keep_last=3", "log_every=1",
            *overrides,
        ],
    )  # fmt: skip


def cut_off(run_dir: Path, copy: Path) -> Path:
    """Copy a finished run as if it had died after its first checkpoint."""
    shutil.copytree(run_dir, copy)
    (copy / WEIGHTS).unlink()
    for folder in list_checkpoints(copy)[1:]:
        shutil.rmtree(copy / FOLDER / folder.name)
    return copy
