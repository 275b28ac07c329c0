"""The deepfake task: real clips against self-blended (or labelled) fakes, by linear probe and by fine-tuning."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from infra.errors import DatasetError
from model.adapt.detector import Detector
from model.adapt.encoder import PooledEncoder, pretrained_encoder, random_encoder, save_detector, save_head
from model.adapt.features import compute_features
from model.adapt.finetune import detector_scores, finetune
from model.adapt.metrics import measure
from model.adapt.pairs import draw_pairs
from model.adapt.pixels import ClipPixels, choose_fakes, list_clips, usable_clips
from model.adapt.probe import ProbeResult, head_scores, train_probe
from model.adapt.report import (
    ADAPTED_FILE,
    HEAD_FILE,
    PAIRS_FILE,
    AdaptReport,
    AdaptRow,
    Init,
    Mode,
    Score,
    write_report,
)
from model.adapt.samples import FAKE, Window, choose_windows, count_people, draws_of
from model.adapt.split import Split, split_windows
from model.adapt_config import AdaptConfig
from model.weights import LoadedWeights, load_weights
from pipeline.dataset.reader import open_dataset

FEW_GROUPS = 20


@dataclass(frozen=True)
class _Study:
    """All that the rows of one run share. ``no_face``: clips left out because no region map shows a face."""

    cfg: AdaptConfig
    weights: LoadedWeights
    pixels: ClipPixels
    windows: tuple[Window, ...]
    split: Split
    no_face: int
    device: torch.device
    cache: Path


def detect_deepfakes(cfg: AdaptConfig, run_dir: Path, device: torch.device) -> AdaptReport:
    """Run the task and write its files into ``run_dir`` (an existing folder).

    Rows, in order: linear probe on the pretrained encoder, the same probe on a randomly initialised encoder of the
    same size, fine-tuning from the pretrained encoder. All see the same clips, blends and split.

    Raises:
        ConfigError, DatasetError, WeightsError, TrainingError: each with what to do.
    """
    start = time.monotonic()
    study = _prepare(cfg, run_dir, device)
    if cfg.pictures:
        shown = study.split.sides["train"]
        draw_pairs(study.pixels, shown[:: max(len(shown) // cfg.pictures, 1)][: cfg.pictures], run_dir / PAIRS_FILE)
    weights, version = study.weights, study.pixels.reader.version.version
    made_on = {
        "kind": "adapt-deepfake",
        "fakes": study.pixels.fakes,
        "dataset": cfg.data.dataset,
        "dataset_version": version,
    }
    row, scores, probe = _linear_probe(study, pretrained_encoder(weights), "pretrained")
    rows = [row]
    save_head(run_dir / HEAD_FILE, probe.head, weights, made_on)
    if cfg.baseline:
        row, its_scores, _ = _linear_probe(study, random_encoder(weights.config, cfg.seed), "random")
        rows.append(row)
        scores += its_scores
    if cfg.finetune.enabled:
        detector = Detector(pretrained_encoder(weights), probe.head)
        row, its_scores = _fine_tuning(study, detector)
        rows.append(row)
        scores += its_scores
        save_detector(run_dir / ADAPTED_FILE, detector, weights, made_on)
    report = AdaptReport(
        task="deepfake",
        run_dir=run_dir,
        dataset=cfg.data.dataset,
        version=version,
        weights_sha256=weights.digest,
        fakes=study.pixels.fakes,
        split=study.split.describe(),
        videos=len({w.clip.video for w in study.windows}),
        people=count_people(study.windows),
        rows=tuple(rows),
        notes=tuple(_notes(study)),
        seconds=round(time.monotonic() - start, 2),
    )
    write_report(report, scores)
    return report


def _prepare(cfg: AdaptConfig, run_dir: Path, device: torch.device) -> _Study:
    """Read weights and dataset, choose windows and split them: everything that can be refused, before any work."""
    weights = load_weights(cfg.weights)
    reader = open_dataset(cfg.data.dataset, cfg.data.version)
    clips = list_clips(reader)
    fakes = choose_fakes(clips, cfg.data.fakes)
    pixels = ClipPixels(reader, fakes, weights.config.image_size, cfg.seed)
    candidates = usable_clips(clips, fakes)
    kept = pixels.with_face(candidates)
    windows = choose_windows(kept, cfg.data.windows_per_clip, cfg.data.max_windows, frames=weights.config.frames)
    if not windows:
        raise DatasetError(
            f"{cfg.data.dataset} version {reader.version.version} has {len(clips)} clips, and none shows face regions; "
            "ingest videos with faces"
        )
    split = split_windows(
        windows,
        kind=cfg.data.split,
        test_fraction=cfg.data.test_fraction,
        val_fraction=cfg.data.val_fraction,
        min_groups=cfg.data.min_groups,
        gap_frames=cfg.data.gap_frames,
        seed=cfg.seed,
    )
    for side in ("train", "test"):
        if fakes == "labels" and len({w.clip.label for w in split.sides[side]}) == 1:
            only = split.sides[side][0].clip.label
            raise DatasetError(f"the {side} side holds {only} clips only; add videos of both kinds, or split by time")
    cache = Path(cfg.cache) if cfg.cache else run_dir / "cache"
    return _Study(cfg, weights, pixels, tuple(windows), split, len(candidates) - len(kept), device, cache)


def _linear_probe(study: _Study, encoder: PooledEncoder, init: Init) -> tuple[AdaptRow, list[Score], ProbeResult]:
    start = time.monotonic()
    windows, several = study.split.sides, study.cfg.data.draws if study.pixels.fakes == "self_blend" else 1
    sides = [draws_of(windows["train"], several), draws_of(windows["val"], several), draws_of(windows["test"])]
    table = compute_features(
        encoder,
        study.pixels,
        [draw for side in sides for draw in side],
        batch=study.cfg.feature_batch,
        device=study.device,
        cache=study.cache,
        label=f"features of the {init} encoder",
    )
    train, val, test = (table.of(side) for side in sides)
    probe = train_probe(
        train.features_ND, train.labels_N, val.features_ND, val.labels_N, study.cfg.probe, label=f"linear probe, {init}"
    )
    scores_N = head_scores(probe.head, test.features_ND)
    losses = probe.losses[probe.best_epoch]
    row = _row(study, "LP", init, scores_N, test.labels_N, probe.best_epoch, losses, time.monotonic() - start)
    return row, _scores("LP", init, windows["test"], scores_N, test.labels_N), probe


def _fine_tuning(study: _Study, detector: Detector) -> tuple[AdaptRow, list[Score]]:
    start = time.monotonic()
    sides, cfg = study.split.sides, study.cfg
    result = finetune(
        detector, study.pixels, sides["train"], sides["val"], cfg.finetune, device=study.device, seed=cfg.seed
    )
    scores_N = detector_scores(
        detector, study.pixels, sides["test"], batch=cfg.finetune.batch_size, device=study.device
    )
    labels_N = _labels(study.pixels, sides["test"])
    losses = (
        result.losses[result.best_epoch] if result.best_epoch >= 0 else (result.losses[0][0], result.start_val_loss)
    )
    row = _row(study, "FT", "pretrained", scores_N, labels_N, result.best_epoch, losses, time.monotonic() - start)
    return row, _scores("FT", "pretrained", sides["test"], scores_N, labels_N)


def _row(
    study: _Study,
    mode: Mode,
    init: Init,
    scores_N: np.ndarray,
    labels_N: np.ndarray,
    best_epoch: int,
    losses: tuple[float, float],
    seconds: float,
) -> AdaptRow:
    test, per = study.split.sides["test"], study.pixels.samples_per_draw
    owners = [w for w in test for _ in range(per)]
    groups = [w.group for w in owners]
    clip = measure(scores_N, labels_N, groups, resamples=study.cfg.bootstrap, seed=study.cfg.seed)
    video_scores, video_labels, video_groups = _by_video(owners, scores_N, labels_N)
    video = measure(video_scores, video_labels, video_groups, resamples=1, seed=study.cfg.seed)
    return AdaptRow(
        mode=mode,
        init=init,
        accuracy=clip.accuracy,
        auc=clip.auc,
        auc_low=clip.auc_low,
        auc_high=clip.auc_high,
        video_accuracy=video.accuracy,
        video_auc=video.auc,
        clips_train=len(study.split.sides["train"]) * per,
        clips_val=len(study.split.sides["val"]) * per,
        clips_test=clip.samples,
        videos_test=len({w.clip.video for w in test}),
        groups_test=clip.groups,
        people_test=count_people(test),
        best_epoch=best_epoch,
        train_loss=losses[0],
        val_loss=losses[1],
        seconds=round(seconds, 2),
    )


def _by_video(
    owners: Sequence[Window], scores_N: np.ndarray, labels_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Mean score of each (video, label): a self-blended video counts beside its original."""
    members: dict[tuple[str, int], list[float]] = defaultdict(list)
    for window, score, label in zip(owners, scores_N.tolist(), labels_N.tolist(), strict=True):
        members[window.clip.video, label].append(score)
    means = np.array([float(np.mean(values)) for values in members.values()])
    return means, np.array([label for _, label in members]), [video for video, _ in members]


def _labels(pixels: ClipPixels, windows: Sequence[Window]) -> np.ndarray:
    if pixels.fakes == "self_blend":
        return np.tile(np.array([0, 1], dtype=np.int64), len(windows))
    return np.array([int(w.clip.label == "fake") for w in windows], dtype=np.int64)


def _scores(
    mode: Mode, init: Init, windows: Sequence[Window], scores_N: np.ndarray, labels_N: np.ndarray
) -> list[Score]:
    per = len(scores_N) // len(windows)
    return [
        Score(
            mode=mode,
            init=init,
            clip=window.clip.key,
            video=window.clip.video,
            name=window.clip.name,
            start_frame=window.start_frame,
            end_frame=window.end_frame,
            label="fake" if labels_N[i * per + j] == FAKE else "real",
            score=float(scores_N[i * per + j]),
        )
        for i, window in enumerate(windows)
        for j in range(per)
    ]


def _notes(study: _Study) -> list[str]:
    """Sentences about how far the numbers reach; they belong beside the table."""
    people, groups = count_people(study.windows), len({w.group for w in study.windows})
    videos = len({w.clip.video for w in study.windows})
    who = f"{people} people" if people is not None else "an unknown number of people"
    notes = [f"Behind these numbers stand {videos} videos of {who}; {study.split.describe()}."]
    if groups < FEW_GROUPS:
        notes.append(
            f"With {groups} independent videos or people the numbers show that the chain works; "
            "they say nothing about other people or other forgeries."
        )
    if study.split.kind == "time":
        notes.append("Training and test show the same people at different times; on strangers results will be lower.")
    if study.pixels.fakes == "self_blend":
        notes.append("Fakes are self-blended clips, not forgeries made by a deepfake method.")
    if study.no_face:
        notes.append(f"{study.no_face} clips without face regions were left out.")
    if "dataset" in study.weights.provenance:
        notes.append("The encoder was pretrained, without labels, on a dataset that may hold the tested videos.")
    return notes
