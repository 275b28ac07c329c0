"""``marlin pretrain``: check everything, start the ranks, resume what is there, leave weights, numbers, a picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.config import flat_tree, load_config, validate_config
from infra.device import pick_device
from infra.errors import ConfigError
from infra.fetch import file_digest
from infra.metrics import read_metrics
from infra.run import CONFIG_FILE, RunContext, new_run_folder
from model.licences import dataset_licences, united, weight_licences
from model.reconstruct import (
    MEAN_FACE_CLIPS,
    ReconstructionScore,
    draw_reconstructions,
    load_autoencoder,
    mean_face,
    reconstruct_clip,
    score_reconstruction,
)
from model.train.engines import resolve_precision
from model.train.networks import first_weights
from model.train.run_folder import WEIGHTS, alone_in
from model.train.shards import check_shards
from model.train.sources import open_source, open_validation
from model.train.start import is_finished, shared_folder, start_ranks
from model.train.validate import SHOWN_CLIPS
from model.train_config import PretrainConfig
from model.weights import LoadedWeights
from pipeline.dataset.reader import DatasetReader, open_dataset

logger = logging.getLogger(__name__)

PICTURE = "reconstruction.png"
DEFAULT_CPU_RANKS = 2
SCORED_CLIPS = 64
"""Clips that the final numbers are measured on, at most."""


@dataclass(frozen=True)
class PretrainReport:
    """What a run made.

    ``first`` and ``last`` hold the metrics of the first and the last logged step. ``score`` is measured on the split
    ``scored_on``: validation, or training where that has no clips. ``dataset_licences`` are those among ``licences``
    that do not come from ``init_from``.
    """

    run_dir: Path
    weights: Path
    picture: Path
    steps: int
    first: Mapping[str, float]
    last: Mapping[str, float]
    score: ReconstructionScore
    scored_on: str
    dataset_version: int
    licences: tuple[str, ...]
    dataset_licences: tuple[str, ...]


def pretrain(cfg: PretrainConfig, run_dir: Path | None = None) -> PretrainReport:
    """Pretrain, or go on with the run in ``run_dir``; a finished run is reported and not trained again.

    Everything that can be refused is refused here, before ranks start.

    Args:
        cfg: settings; ``auto`` and None are decided here and written, decided, into the run folder.
        run_dir: run folder; None makes a new one under ``runs/``.

    Raises:
        ConfigError: settings, dataset or device do not fit, or ``run_dir`` holds a run with other settings, or one
            that is under way.
        DatasetError, WeightsError: the dataset or ``init_from`` cannot be read.
        TrainingError: the run diverged, was stopped by a signal, or lost a rank; the sentence says how to go on.
    """
    if cfg.launch.nodes > 1:
        run_dir = shared_folder(cfg, run_dir)
    cfg = decide(cfg, _settings_of(run_dir))
    reader = open_dataset(cfg.data.dataset, cfg.data.version)
    open_source(cfg, reader, cfg.data.split)
    check_shards(reader, cfg.data.check_mb * 1_000_000)
    init = first_weights(cfg)
    folder = run_dir or new_run_folder("pretrain", cfg)
    # held before config.yaml is replaced, which the ranks of another run would read at every restart
    with alone_in(folder), RunContext.create("pretrain", cfg, folder=folder) as run:
        logger.info("run folder %s", folder)
        licences = _record_inputs(run, cfg, reader, init)
        if not is_finished(cfg, run.dir):
            start_ranks(cfg, run.dir)
        else:
            logger.info("%s is finished; nothing to train", run.dir)
        score, scored_on = _score_and_draw(cfg, reader, run.dir)
        for name in (WEIGHTS, PICTURE):
            run.add_output(name, run.path(name), file_digest(run.path(name)))
        run.set("reconstruction", {**asdict(score), "scored_on": scored_on})
        lines = [row for row in read_metrics(run.dir) if "loss/reconstruction" in row]
        return PretrainReport(
            run_dir=run.dir, weights=run.path(WEIGHTS), picture=run.path(PICTURE), steps=cfg.steps,
            first=lines[0], last=lines[-1], score=score, scored_on=scored_on,
            dataset_version=reader.version.version, licences=licences,
            dataset_licences=dataset_licences(reader.version),
        )  # fmt: skip


def decide(cfg: PretrainConfig, previous: PretrainConfig | None) -> PretrainConfig:
    """Return the settings with nothing left open: dataset version, ranks and precision.

    A resumed run (``previous``) keeps what it decided then. It may change how it is computed (ranks, micro-batch, …); a
    difference in what decides its result is refused.

    Raises:
        ConfigError: with the differing settings, or what does not fit.
    """
    tree = cfg.model_dump(mode="json")
    if previous is not None:
        tree["data"]["version"] = cfg.data.version or previous.data.version
        tree["world_size"] = cfg.world_size or previous.world_size
        tree["precision"] = previous.precision if cfg.precision == "auto" else cfg.precision
    else:
        tree["precision"] = resolve_precision(cfg.precision)
        tree["world_size"] = cfg.world_size or _default_ranks(cfg)
        tree["data"]["version"] = open_dataset(cfg.data.dataset, cfg.data.version).version.version
    decided = validate_config(PretrainConfig, tree, where="the decided settings")
    if previous is not None:
        _check_same_run(decided, previous)
    gpus, ranks_here = torch.cuda.device_count(), decided.ranks_per_node
    if gpus and ranks_here > gpus:
        raise ConfigError(
            f"world_size {decided.world_size} needs {ranks_here} GPUs on each machine and there are {gpus}; lower it"
        )
    resolve_precision(decided.precision)
    return decided


def _check_same_run(cfg: PretrainConfig, previous: PretrainConfig) -> None:
    """Refuse to go on with a run under settings that would change what it learns."""
    now, then = (flat_tree(settings.essence()) for settings in (cfg, previous))
    different = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key))
    if different:
        shown = "; ".join(f"{key}: {then.get(key)} then, {now.get(key)} now" for key in different[:3])
        raise ConfigError(f"the run folder holds a run with other settings ({shown}); take a new run folder")


def _score_and_draw(cfg: PretrainConfig, reader: DatasetReader, run_dir: Path) -> tuple[ReconstructionScore, str]:
    """Measure the finished weights, and draw a few clips with them."""
    network, _ = load_autoencoder(run_dir / WEIGHTS)
    network.to(pick_device("auto"))
    training, validation = open_source(cfg, reader, cfg.data.split), open_validation(cfg, reader)
    source = validation or training
    face_CHW = mean_face(training.load(i) for i in range(min(MEAN_FACE_CLIPS, training.clips)))
    score = score_reconstruction(network, (source.load(i) for i in range(min(SCORED_CLIPS, source.clips))), face_CHW)
    samples = [source.load(i) for i in range(min(SHOWN_CLIPS, source.clips))]
    clips = [reconstruct_clip(network, sample.clip_THWC, sample.is_masked_L) for sample in samples]
    (run_dir / PICTURE).write_bytes(draw_reconstructions(clips))
    return score, source.split


def _record_inputs(
    run: RunContext, cfg: PretrainConfig, reader: DatasetReader, init: LoadedWeights | None
) -> tuple[str, ...]:
    version = reader.version
    licences = dataset_licences(version)
    run.add_input("dataset", reader.storage.uri, f"version {version.version}", licence="; ".join(licences))
    if init is None:
        return licences
    inherited = weight_licences(init.provenance)
    run.add_input("init_from", str(cfg.init_from), init.digest, licence="; ".join(inherited))
    return united(licences, inherited)


def _settings_of(run_dir: Path | None) -> PretrainConfig | None:
    if run_dir is None or not (run_dir / CONFIG_FILE).exists():
        return None
    return load_config(PretrainConfig, run_dir / CONFIG_FILE)


def _default_ranks(cfg: PretrainConfig) -> int:
    """All GPUs, as many on each machine as here; on CPUs two ranks a machine, one when the batch is odd."""
    nodes = cfg.launch.nodes
    if gpus := torch.cuda.device_count():
        return nodes * gpus
    return nodes * (1 if cfg.global_batch % (nodes * DEFAULT_CPU_RANKS) else DEFAULT_CPU_RANKS)
