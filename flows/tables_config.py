"""Settings of the tables of the paper."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from infra.config import BaseConfig
from model.adapt_config import AdaptConfig, AdaptDataConfig
from model.train_config import ModelChoice, PretrainConfig

TableName = Literal["modules", "encoders", "masking", "deepfake", "emotion", "attributes", "few_shot"]
TaskName = Literal["deepfake", "appearance", "action", "emotion", "sentiment7", "sentiment2"]


class TablesConfig(BaseConfig):
    """Settings of ``marlin tables``: which tables are filled, from which data, with which recipe."""

    tables: tuple[TableName, ...] = ("modules", "encoders", "masking")
    """Which tables; cells that tables share are run once."""
    work: str = "work/tables"
    """Folder of all runs and of ``tables.md``. A finished cell is not run again."""
    pretrain: PretrainConfig = PretrainConfig()
    """Recipe of every pretraining; on YouTube Faces. Encoder, masking and adversarial loss are the row's."""
    adapt: AdaptConfig = AdaptConfig()
    """Recipe of every adaptation; task, data, weights and backbone are the cell's."""
    data: dict[TaskName, AdaptDataConfig] = {}
    """Dataset, split and labels of each task; columns of tasks that are absent stay empty."""
    sizes: dict[Literal["ViT-S", "ViT-B", "ViT-L"], ModelChoice] = {
        "ViT-S": ModelChoice(name="marlin_vit_small"),
        "ViT-B": ModelChoice(name="marlin_vit_base"),
        "ViT-L": ModelChoice(name="marlin_vit_large"),
    }
    """Networks behind the paper's names; smaller ones make a rehearsal of the whole."""
    fractions: tuple[float, ...] = (0.5, 0.1, 0.01)
    """Shares of the few-shot table beside 100 %."""
    parallel: int = Field(default=1, ge=1, le=64)
    """Cells run at a time, each in a process of its own; more than one wants several GPUs (``CUDA_VISIBLE_DEVICES`` is
    dealt out in turn) or a CPU to spare."""
