"""Which runs fill which cells: a pure function of the settings. Runs that cells share are planned once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.tables_config import TablesConfig
from flows.tables_published import TABLES, Column, Recipe, Row
from infra.config import BaseConfig, config_digest
from infra.errors import ConfigError
from model.adapt_config import AdaptConfig
from model.train_config import PretrainConfig


@dataclass(frozen=True)
class Run:
    """One command in a folder of its own, named by the digest of its settings; ``needs`` is a folder to be finished."""

    command: str
    cfg: BaseConfig
    folder: Path
    needs: Path | None = None


@dataclass(frozen=True)
class TablesPlan:
    """All runs, pretraining first, and the folder that fills each (recipe, task)."""

    runs: tuple[Run, ...]
    folders: dict[tuple[Recipe, str], Path]


def plan_tables(cfg: TablesConfig) -> TablesPlan:
    """Plan the runs of ``cfg.tables``.

    Raises:
        ConfigError: no task of these tables has data.
    """
    runs: dict[Path, Run] = {}
    folders: dict[tuple[Recipe, str], Path] = {}
    wanted = [
        (row.recipe, column.task)
        for name in cfg.tables
        for row in TABLES[name].rows
        for column in TABLES[name].columns
        if row.recipe is not None and column.task in cfg.data
    ]
    if not wanted:
        tasks = sorted({column.task for name in cfg.tables for column in TABLES[name].columns})
        raise ConfigError(f"no cell can be filled: set data.TASK.dataset for at least one of {', '.join(tasks)}")
    few_shot = {column.task for column in TABLES["few_shot"].columns} if "few_shot" in cfg.tables else set()
    for recipe, task in dict.fromkeys(wanted):
        pretraining = None
        if recipe.backbone == "marlin":
            pretrain = pretrain_config(cfg, recipe)
            pretraining = Path(cfg.work) / "runs" / f"pretrain-{config_digest(pretrain)[:12]}"
            runs.setdefault(pretraining, Run("pretrain", pretrain, pretraining))
        fractions = cfg.fractions if task in few_shot and recipe == Recipe() else ()
        adapt = adapt_config(cfg, recipe, task, pretraining, fractions)
        folder = Path(cfg.work) / "runs" / f"adapt-{task}-{config_digest(adapt)[:12]}"
        runs.setdefault(folder, Run("adapt", adapt, folder, pretraining))
        folders[recipe, task] = folder
    ordered = sorted(runs.values(), key=lambda run: run.command != "pretrain")
    return TablesPlan(tuple(ordered), folders)


def pretrain_config(cfg: TablesConfig, recipe: Recipe) -> PretrainConfig:
    """Return the settings of a row's pretraining."""
    return cfg.pretrain.model_copy(
        update={
            "model": cfg.sizes[recipe.size],
            "mask": cfg.pretrain.mask.model_copy(update={"strategy": recipe.mask}),
            "adversarial": cfg.pretrain.adversarial.model_copy(update={"enabled": recipe.adversarial}),
        }
    )


def adapt_config(
    cfg: TablesConfig, recipe: Recipe, task: str, pretraining: Path | None, fractions: tuple[float, ...]
) -> AdaptConfig:
    """Return the settings of a cell's adaptation."""
    return cfg.adapt.model_copy(
        update={
            "task": task,
            "data": cfg.data[task],  # type: ignore[index]
            "weights": str(pretraining) if pretraining else "",
            "backbone": recipe.backbone,
            "baseline": False,
            "balanced": False,  # plain cross-entropy, as the published accuracies are
            "cache": cfg.adapt.cache or str(Path(cfg.work) / "cache"),
            "few_shot": cfg.adapt.few_shot.model_copy(
                update={"fractions": fractions, "finetune": bool(fractions) and task == "deepfake"}
            ),
        }
    )


def mode_of(row: Row, column: Column, finetuned: bool) -> str:
    """Return how a cell was adapted: the row's mode, else FT for deepfakes and LP for the rest; LP without FT."""
    wanted = row.mode or ("FT" if column.task == "deepfake" else "LP")
    return wanted if finetuned else "LP"
