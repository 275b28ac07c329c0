"""``adapt``: choose the task, check the settings, run it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infra.config import flat_tree, load_config
from infra.device import pick_device
from infra.errors import ConfigError, DatasetError, WeightsError
from infra.fetch import file_digest
from infra.run import CONFIG_FILE, RUN_FILE, RunContext, new_run_folder
from model.adapt.finetune import JOB_FILE, read_job
from model.adapt.report import (
    ADAPTED_FILE,
    HEAD_FILE,
    PAIRS_FILE,
    RESULT_FILE,
    SCORES_FILE,
    SUBJECTS_FILE,
    AdaptReport,
    read_result,
)
from model.adapt.study import open_study, run_study
from model.adapt.tasks import TASKS
from model.adapt_config import AdaptConfig
from model.licences import dataset_licences
from model.train.run_folder import alone_in
from model.weights import weights_digest
from pipeline.dataset.reader import open_dataset, version_to_go_on_with

_log = logging.getLogger(__name__)

TASK_NAMES = (*TASKS, "custom")
_FREE = ("threads", "feature_batch", "cache", "device", "finetune.workers", "finetune.checkpoint_every")
"""How a run is computed."""


def adapt(cfg: AdaptConfig, run_dir: str | Path | None = None) -> AdaptReport:
    """Adapt an encoder to ``cfg.task``, one of ``TASK_NAMES``, and measure it; a finished run is reported as it was.

    Everything that can be refused is refused before the run folder is touched.

    Args:
        cfg: settings.
        run_dir: run folder; None makes one under ``runs/``. It receives ``result.json``, ``video_scores.csv`` and
            ``scores.csv`` (one row a window), ``pairs.png`` (made fakes), ``head.safetensors`` (linear probe),
            ``adapted.safetensors`` (encoder, head) and ``run.json``; the same folder goes on with an interrupted run,
            on the dataset version that it began with.

    Raises:
        ConfigError: no such task, no dataset or weights named, no such device; the folder holds a run with other
            settings, or one that is under way.
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
    if run_dir is not None and (Path(run_dir) / RESULT_FILE).exists():
        return _finished(cfg, Path(run_dir))
    cfg = _decided(cfg, run_dir)
    kind = f"adapt-{cfg.task}"
    folder = new_run_folder(kind, cfg) if run_dir is None else Path(run_dir)
    study = open_study(cfg, folder, device)
    with alone_in(folder), RunContext.create(kind, cfg, folder=folder) as run:
        version = study.reader.version
        run.add_input(
            "dataset", cfg.data.dataset, f"version {version.version}", licence="; ".join(dataset_licences(version))
        )
        if cfg.weights:
            run.add_input("weights", cfg.weights, study.choice.digest, licence="; ".join(study.choice.licences))
        if cfg.data.labels:
            run.add_input("labels", cfg.data.labels, file_digest(Path(cfg.data.labels)))
        report = run_study(study)
        _add_outputs(run)
    for note in report.notes:
        _log.info("%s", note)
    return report


def _add_outputs(run: RunContext) -> None:
    for name in (RESULT_FILE, SCORES_FILE, SUBJECTS_FILE, PAIRS_FILE, HEAD_FILE, ADAPTED_FILE):
        if run.path(name).exists():
            run.add_output(name, run.path(name), file_digest(run.path(name)))


def _finished(cfg: AdaptConfig, folder: Path) -> AdaptReport:
    """Return the result of a finished run, with a note when its dataset or its weights are newer.

    A run that was killed between its result and the end of its record gets the rest of that.

    Raises:
        ConfigError: it was made with other settings, or cannot be read.
    """
    report = read_result(folder)
    _refuse_others(_at_version(cfg, cfg.data.version or report.version), folder, _essence)
    if not is_finished(folder):
        before = load_config(AdaptConfig, folder / CONFIG_FILE)
        with alone_in(folder), RunContext.create(f"adapt-{cfg.task}", before, folder=folder) as run:
            _add_outputs(run)
    _log.info("%s is finished; nothing to adapt", folder)
    return replace(report, notes=(*report.notes, *_newer(cfg, report)))


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a result and the whole record of how it was made."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return (folder / RESULT_FILE).exists() and record["outcome"] == "done"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _newer(cfg: AdaptConfig, report: AdaptReport) -> Iterator[str]:
    """Sentences about what has changed since a result was made."""
    with suppress(WeightsError):
        if cfg.weights and weights_digest(cfg.weights) != report.weights_sha256:
            yield f"The weights at {cfg.weights} are no longer those that were measured; another --run measures them."
    if cfg.data.version is None:
        try:
            newest = open_dataset(cfg.data.dataset).version.version
        except DatasetError as gone:
            yield f"This is what was measured then; now {gone}."
        else:
            if newest != report.version:
                yield (
                    f"This was measured on version {report.version} of the dataset, and there is version {newest}; "
                    "another --run measures that."
                )


def _decided(cfg: AdaptConfig, run_dir: str | Path | None) -> AdaptConfig:
    """Return the settings with a dataset version: that of the interrupted run in this folder, else the newest.

    Raises:
        ConfigError: the folder holds a fine-tuning of other settings or weights.
    """
    begun = None
    folder = Path(run_dir or "")
    going_on = run_dir is not None and (folder / CONFIG_FILE).exists()
    if going_on and cfg.data.version is None:
        before = load_config(AdaptConfig, folder / CONFIG_FILE).data
        begun = before.version if before.dataset == cfg.data.dataset else None
    if cfg.data.version is None:
        cfg = _at_version(cfg, version_to_go_on_with(cfg.data.dataset, begun))
    if going_on and (jobs := sorted(folder.glob(f"*/{JOB_FILE}"))):
        _refuse_others(cfg, folder, _everything)  # by which a fine-tuning knows itself
        began = read_job(jobs[0].parent).weights_sha256
        if cfg.weights and began not in ("", weights_digest(cfg.weights)):
            raise ConfigError(
                f"the weights at {cfg.weights} are no longer those that the fine-tuning in {folder} began with; "
                "bring them back, or take another --run"
            )
    return cfg


def _at_version(cfg: AdaptConfig, version: int) -> AdaptConfig:
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"version": version})})


def _everything(cfg: AdaptConfig) -> dict[str, Any]:
    return flat_tree(cfg.model_dump(mode="json"))


def _essence(cfg: AdaptConfig) -> dict[str, Any]:
    """The settings that decide a result."""
    essence = {key: value for key, value in _everything(cfg).items() if key not in _FREE}
    return essence | {key: essence[key].rstrip("/") for key in ("data.dataset", "weights")}


def _refuse_others(cfg: AdaptConfig, folder: Path, compared: Callable[[AdaptConfig], dict[str, Any]]) -> None:
    """Refuse settings other than those of the run in a folder: its files would be those of two runs."""
    now, then = compared(cfg), compared(load_config(AdaptConfig, folder / CONFIG_FILE))
    if different := sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key)):
        shown = "; ".join(f"{key}: {then.get(key)} then, {now.get(key)} now" for key in different[:3])
        raise ConfigError(f"run folder {folder} holds a run with other settings ({shown}); take another --run")
