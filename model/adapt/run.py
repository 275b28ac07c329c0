"""``adapt``: choose the task, check the settings, run it."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from infra.config import load_config
from infra.device import pick_device
from infra.errors import ConfigError
from infra.fetch import file_digest
from infra.run import CONFIG_FILE, RunContext
from model.adapt.licences import dataset_licences
from model.adapt.report import (
    ADAPTED_FILE,
    HEAD_FILE,
    PAIRS_FILE,
    RESULT_FILE,
    SCORES_FILE,
    SUBJECTS_FILE,
    AdaptReport,
)
from model.adapt.study import open_study, run_study
from model.adapt.tasks import TASKS
from model.adapt_config import AdaptConfig
from pipeline.dataset.reader import version_to_go_on_with

_log = logging.getLogger(__name__)

TASK_NAMES = (*TASKS, "custom")


def adapt(cfg: AdaptConfig, run_dir: str | Path | None = None) -> AdaptReport:
    """Adapt an encoder to ``cfg.task``, one of ``TASK_NAMES``, and measure it.

    Args:
        cfg: settings.
        run_dir: run folder; None makes one under ``runs/``. It receives ``result.json``, ``video_scores.csv`` and
            ``scores.csv`` (one row a window), ``pairs.png`` (made fakes), ``head.safetensors`` (linear probe),
            ``adapted.safetensors`` (encoder, head) and ``run.json``; the same folder goes on with an interrupted run,
            on the dataset version that it began with.

    Raises:
        ConfigError: no such task, no dataset or weights named, no such device.
        ProjectError: whatever the task meets; each says what to do.
    """
    if cfg.task not in TASK_NAMES:
        raise ConfigError(f"there is no task '{cfg.task}'; there are {', '.join(TASK_NAMES)}")
    if not cfg.data.dataset:
        raise ConfigError("no dataset is named: set data.dataset to a folder made by `marlin ingest`")
    if not cfg.weights and cfg.backbone == "marlin":
        raise ConfigError("no weights are named: set weights to a file or a run folder of `marlin pretrain`")
    device = pick_device(cfg.device)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    cfg = _decided(cfg, run_dir)
    with RunContext.create(f"adapt-{cfg.task}", cfg, folder=run_dir) as run:
        study = open_study(cfg, run.dir, device)
        version = study.reader.version
        run.add_input(
            "dataset", cfg.data.dataset, f"version {version.version}", licence="; ".join(dataset_licences(version))
        )
        if cfg.weights:
            run.add_input("weights", cfg.weights, study.choice.digest, licence="; ".join(study.choice.licences))
        if cfg.data.labels:
            run.add_input("labels", cfg.data.labels, file_digest(Path(cfg.data.labels)))
        report = run_study(study)
        for name in (RESULT_FILE, SCORES_FILE, SUBJECTS_FILE, PAIRS_FILE, HEAD_FILE, ADAPTED_FILE):
            if run.path(name).exists():
                run.add_output(name, run.path(name), file_digest(run.path(name)))
    for note in report.notes:
        _log.info("%s", note)
    return report


def _decided(cfg: AdaptConfig, run_dir: str | Path | None) -> AdaptConfig:
    """Return the settings with a dataset version: that of the interrupted run in this folder, else the newest."""
    if cfg.data.version is not None:
        return cfg
    begun = None
    kept = Path(run_dir or "") / CONFIG_FILE
    if run_dir is not None and kept.exists() and not kept.with_name(RESULT_FILE).exists():
        before = load_config(AdaptConfig, kept).data
        begun = before.version if before.dataset == cfg.data.dataset else None
    version = version_to_go_on_with(cfg.data.dataset, begun)
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"version": version})})
