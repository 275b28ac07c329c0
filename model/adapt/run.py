"""``adapt``: choose the task, check the settings, run it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from infra.device import pick_device
from infra.errors import ConfigError
from infra.run import RunContext
from model.adapt.deepfake import detect_deepfakes
from model.adapt.report import ADAPTED_FILE, HEAD_FILE, PAIRS_FILE, RESULT_FILE, SCORES_FILE, AdaptReport
from model.adapt_config import AdaptConfig

_log = logging.getLogger(__name__)

Task = Callable[[AdaptConfig, Path, torch.device], AdaptReport]
TASKS: dict[str, Task] = {"deepfake": detect_deepfakes}
"""Tasks of this release."""
LATER_TASKS = ("appearance", "action", "emotion", "sentiment7", "sentiment2", "custom")
"""Tasks whose names are settled and that are not in this release."""


def adapt(cfg: AdaptConfig, run_dir: str | Path | None = None) -> AdaptReport:
    """Adapt a pretrained encoder to ``cfg.task``, one of ``TASKS``, and measure it.

    Args:
        cfg: settings.
        run_dir: run folder; None makes one under ``runs/``. It receives ``result.json``, ``scores.csv``,
            ``pairs.png``, ``head.safetensors`` (linear probe), ``adapted.safetensors`` (fine-tuned) and ``run.json``.

    Raises:
        ConfigError: no such task, no dataset or weights named, no such device.
        ProjectError: whatever the task meets; each says what to do.
    """
    if cfg.task not in TASKS:
        raise ConfigError(_unknown(cfg.task))
    if not cfg.data.dataset:
        raise ConfigError("no dataset is named: set data.dataset to a folder made by `marlin ingest`")
    if not cfg.weights:
        raise ConfigError("no weights are named: set weights to a file or a run folder of `marlin pretrain`")
    device = pick_device(cfg.device)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    with RunContext.create(f"adapt-{cfg.task}", cfg, folder=run_dir) as run:
        report = TASKS[cfg.task](cfg, run.dir, device)
        run.add_input("weights", cfg.weights, report.weights_sha256)
        run.add_input("dataset", report.dataset, f"version {report.version}")
        for name in (RESULT_FILE, SCORES_FILE, PAIRS_FILE, HEAD_FILE, ADAPTED_FILE):
            if run.path(name).exists():
                run.add_output(name, run.path(name))
    for note in report.notes:
        _log.info("%s", note)
    return report


def _unknown(task: str) -> str:
    here = ", ".join(TASKS)
    if task in LATER_TASKS:
        return f"task '{task}' is not in this release; this release has: {here}"
    return f"there is no task '{task}'; this release has: {here}"
