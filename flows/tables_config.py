"""Settings of the tables of the paper."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from infra.config import BaseConfig
from model.adapt_config import AdaptConfig, AdaptDataConfig
from model.train_config import ModelChoice, PretrainConfig

TableName = Literal["modules", "encoders", "masking", "deepfake", "emotion", "attributes", "few_shot"]
TaskName = Literal["deepfake", "appearance", "action", "emotion", "sentiment7", "sentiment2"]


class CellLaunchConfig(BaseConfig):
    """Where the cells run."""

    ray_gpus: int | None = Field(default=None, ge=0)
    """Run each cell on a machine of the Ray cluster at RAY_ADDRESS, with so many of its GPUs (0: CPUs alone); None:
    here."""
    cpus: int = Field(default=2, ge=1)
    """CPUs that are reserved there for each cell."""
    max_restarts: int = Field(default=3, ge=0)
    """How often a cell whose machine is lost is started again, on another one."""


class TablesConfig(BaseConfig):
    """Settings of ``marlin tables``: which tables are filled, from which data, with which recipe."""

    tables: tuple[TableName, ...] = ("modules", "encoders", "masking")
    """Which tables: modules, encoders, masking, deepfake, emotion, attributes, few_shot. Shared cells are run once."""
    work: str = "work/tables"
    """Folder of all runs and of ``tables.md``. A finished cell is not run again."""
    pretrain: PretrainConfig = PretrainConfig()
    """Recipe of every pretraining; on YouTube Faces. Encoder, masking and adversarial loss are the row's."""
    adapt: AdaptConfig = AdaptConfig()
    """Recipe of every adaptation; task, data, weights and backbone are the cell's, and ``balanced`` is off, as in
    the paper."""
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
    """Most cells run at a time, each in a process of its own. Here, more than one wants several GPUs
    (``CUDA_VISIBLE_DEVICES`` is dealt out in turn) or a CPU to spare; on Ray, cells wait until the cluster has room."""
    launch: CellLaunchConfig = CellLaunchConfig()
    """Where the cells run; it changes no cell."""

    @model_validator(mode="after")
    def _one_launcher(self) -> Self:
        if self.launch.ray_gpus is not None and self.pretrain.launch.ray_gpus is not None:
            raise ValueError(
                "launch.ray_gpus sends every cell to Ray, and pretrain.launch.ray_gpus would send pretrainings on from "
                "there; leave pretrain.launch.ray_gpus out"
            )
        if self.pretrain.launch.nodes > 1:
            raise ValueError(
                f"a cell runs on one machine; set pretrain.launch.nodes=1, not {self.pretrain.launch.nodes}"
            )
        return self
