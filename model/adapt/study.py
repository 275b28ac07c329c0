"""One adaptation: features once, probes on them, fine-tuning, few-shot subsets, and the report of all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from infra.config import config_digest
from model.adapt.classifier import Classifier
from model.adapt.encoder import classifier_state, save_head
from model.adapt.encoders import EncoderChoice, open_encoder
from model.adapt.examples import list_clips
from model.adapt.features import FeatureTable, compute_features
from model.adapt.few_shot import few_shot_subset
from model.adapt.finetune import FinetuneResult, classifier_scores, finetune, make_job
from model.adapt.metrics import measure
from model.adapt.objective import class_weights
from model.adapt.pairs import draw_pairs
from model.adapt.plan import Plan, make_plan, targets_of
from model.adapt.probe import ProbeResult, head_scores, train_probe
from model.adapt.report import (
    ADAPTED_FILE,
    HEAD_FILE,
    PAIRS_FILE,
    SCORES_FILE,
    SUBJECTS_FILE,
    AdaptReport,
    AdaptRow,
    FewShotRow,
    Mode,
    write_result,
)
from model.adapt.samples import Window, count_people, draws_of
from model.adapt.sanity import overfit_one_batch
from model.adapt.scores import Subject, WindowScores, by_subject, write_subjects, write_windows
from model.adapt_config import AdaptConfig
from model.licences import dataset_licences, licence_note, united
from model.provenance import ADAPTED, PRETRAINING, crop_of, labels_of
from model.weights import save_weights
from pipeline.dataset.reader import DatasetReader, open_dataset

FEW_GROUPS = 20
SAME_SHARE = 0.05
"""Class weights that differ from 1 by less than this are those of classes that are equally frequent."""


@dataclass(frozen=True)
class Study:
    """All that the rows of one run share."""

    cfg: AdaptConfig
    run_dir: Path
    device: torch.device
    choice: EncoderChoice
    reader: DatasetReader
    plan: Plan
    cache: Path


@dataclass(frozen=True)
class _Outcome:
    """One trained model: its row of the table, and the scores behind it."""

    row: AdaptRow
    scores: WindowScores
    subjects: list[Subject]


def open_study(cfg: AdaptConfig, run_dir: Path, device: torch.device) -> Study:
    """Read weights and dataset, choose windows and split them: everything that can be refused, before any work."""
    choice = open_encoder(cfg)
    reader = open_dataset(cfg.data.dataset, cfg.data.version)
    plan = make_plan(cfg, reader, list_clips(reader), choice.frames, choice.image_size)
    plan = replace(plan, task=replace(plan.task, balanced=plan.task.balanced and cfg.balanced))
    return Study(cfg, run_dir, device, choice, reader, plan, Path(cfg.cache) if cfg.cache else run_dir / "cache")


def run_study(study: Study) -> AdaptReport:
    """Train, measure, and write the files of the run.

    Rows, in order: linear probe on the encoder, the same probe on a randomly initialised one of the same size,
    fine-tuning. All see the same windows, made samples and split.
    """
    start = time.monotonic()
    cfg, plan, choice = study.cfg, study.plan, study.choice
    train = plan.split.sides["train"]
    if cfg.pictures and plan.pixels.variants.count == 2:
        draw_pairs(
            plan.pixels, train[:: max(len(train) // cfg.pictures, 1)][: cfg.pictures], study.run_dir / PAIRS_FILE
        )
    table = _features(study, choice)
    overfit = overfit_one_batch(plan.task, table.of(draws_of(train)))
    outcome, probe = _linear_probe(study, choice, table)
    outcomes = [outcome]
    facts = _facts(study)
    if choice.config is not None:
        save_head(study.run_dir / HEAD_FILE, probe.head, choice.config, facts)
    if cfg.baseline and choice.init != "random":
        at_random = choice.at_random(cfg.seed)
        outcomes.append(_linear_probe(study, at_random, _features(study, at_random))[0])
    classifier = Classifier(choice.build(), probe.head)
    if cfg.finetune.enabled:
        outcomes.append(_fine_tuning(study, classifier, train, study.run_dir / "finetune"))
    if choice.config is not None and cfg.save_adapted:
        save_weights(study.run_dir / ADAPTED_FILE, classifier_state(classifier), choice.config, facts)
    few_shot = [row for fraction in cfg.few_shot.fractions for row in _few_shot(study, table, fraction)]
    write_windows(study.run_dir / SCORES_FILE, plan.task, [o.scores for o in outcomes])
    write_subjects(study.run_dir / SUBJECTS_FILE, plan.task, [(o.scores, o.subjects) for o in outcomes])
    report = AdaptReport(
        task=plan.task.name, kind=plan.task.kind, outputs=plan.task.outputs, run_dir=study.run_dir,
        dataset=cfg.data.dataset, version=study.reader.version.version, encoder=choice.name,
        weights_sha256=choice.digest, config_digest=config_digest(cfg), fakes=plan.pixels.variants.name,
        split=plan.split.describe(),
        videos=len({w.clip.video for w in plan.windows}), people=count_people(plan.windows),
        rows=tuple(o.row for o in outcomes), few_shot=tuple(few_shot),
        notes=(*_notes(study), *_training_notes(study, [*(o.row for o in outcomes), *few_shot])),
        licences=_licences(study), seconds=round(time.monotonic() - start, 2), overfit=overfit.sentence(),
    )  # fmt: skip
    write_result(report)
    return report


def _features(study: Study, choice: EncoderChoice) -> FeatureTable:
    """Features of all sides: several draws of training and validation windows where samples are made, one of test."""
    pixels, sides = study.plan.pixels, study.plan.split.sides
    several = study.cfg.data.draws if pixels.variants.count > 1 else 1
    draws = [*draws_of(sides["train"], several), *draws_of(sides["val"], several), *draws_of(sides["test"])]
    return compute_features(
        choice.build(), pixels, draws, batch=study.cfg.feature_batch, device=study.device, cache=study.cache,
        label=f"features of the {choice.init} encoder",
    )  # fmt: skip


def _linear_probe(
    study: Study, choice: EncoderChoice, table: FeatureTable, train: Sequence[Window] | None = None
) -> tuple[_Outcome, ProbeResult]:
    start = time.monotonic()
    sides, task = study.plan.split.sides, study.plan.task
    several = study.cfg.data.draws if study.plan.pixels.variants.count > 1 else 1
    train = sides["train"] if train is None else train
    learnt, chosen, tested = (
        table.of(d) for d in (draws_of(train, several), draws_of(sides["val"], several), draws_of(sides["test"]))
    )
    probe = train_probe(
        task, learnt.features_ND, learnt.targets_NJ, chosen.features_ND, chosen.targets_NJ, study.cfg.probe,
        label=f"linear probe, {choice.init}",
    )  # fmt: skip
    scores_NK = head_scores(task.kind, probe.head, tested.features_ND)
    losses = probe.losses[probe.best_epoch]
    return _outcome(study, "LP", choice.init, train, scores_NK, probe.best_epoch, losses, start), probe


def _fine_tuning(study: Study, classifier: Classifier, train: Sequence[Window], folder: Path) -> _Outcome:
    start = time.monotonic()
    sides, task, pixels, cfg = study.plan.split.sides, study.plan.task, study.plan.pixels, study.cfg
    job = make_job(cfg, task, pixels, study.choice, {**sides, "train": train})
    result: FinetuneResult = finetune(job, classifier, folder)
    scores_NK = classifier_scores(
        task, classifier, pixels, sides["test"], batch=cfg.finetune.batch_size, device=study.device
    )
    return _outcome(study, "FT", study.choice.init, train, scores_NK, result.best_epoch, result.kept_losses(), start)


def _few_shot(study: Study, table: FeatureTable, fraction: float) -> list[FewShotRow]:
    """Train on ``fraction`` of the training subjects, once for each seed; validation and test are whole."""
    cfg = study.cfg
    by_mode: dict[Mode, list[_Outcome]] = {"LP": []}
    subjects: list[int] = []
    for seed in range(cfg.few_shot.seeds):
        train = few_shot_windows(study.plan, fraction, seed)
        subjects.append(len({w.clip.subject for w in train}))
        outcome, probe = _linear_probe(study, study.choice, table, train)
        by_mode["LP"].append(outcome)
        if cfg.finetune.enabled and cfg.few_shot.finetune:
            folder = study.run_dir / f"finetune-{fraction:g}-{seed}"
            classifier = Classifier(study.choice.build(), probe.head)
            by_mode.setdefault("FT", []).append(_fine_tuning(study, classifier, train, folder))
    rows = []
    for mode, outcomes in by_mode.items():
        names = set.intersection(*(set(o.row.measures) for o in outcomes))
        values = {name: [o.row.figure(name) for o in outcomes] for name in outcomes[0].row.measures if name in names}
        spread = {
            name: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0) for name, v in values.items()
        }
        clips, best_epoch = [o.row.clips_train for o in outcomes], max(o.row.best_epoch for o in outcomes)
        rows.append(
            FewShotRow(
                mode, study.choice.init, fraction, len(outcomes), float(np.mean(subjects)), float(np.mean(clips)),
                best_epoch, spread,
            )
        )  # fmt: skip
    return rows


def few_shot_windows(plan: Plan, fraction: float, seed: int) -> tuple[Window, ...]:
    """Return the training windows of the subjects that keep their labels."""
    train = plan.split.sides["train"]
    targets = {w.clip.subject: plan.pixels.variants.targets(w)[0] for w in train}
    kept = few_shot_subset(targets, plan.task.kind, fraction, seed)
    return tuple(w for w in train if w.clip.subject in kept)


def _outcome(
    study: Study,
    mode: Mode,
    init: str,
    train: Sequence[Window],
    scores_NK: np.ndarray,
    best_epoch: int,
    losses: tuple[float, float],
    start: float,
) -> _Outcome:
    cfg, plan, pixels = study.cfg, study.plan, study.plan.pixels
    sides, per = plan.split.sides, pixels.variants.count
    scores = WindowScores(mode, init, sides["test"], pixels.variants, scores_NK)
    subjects = by_subject(scores)
    samples = scores.samples()
    measured = measure(
        plan.task, np.stack([s.scores_K for s in subjects]), np.array([s.target for s in subjects]),
        [s.group for s in subjects], resamples=cfg.bootstrap, seed=cfg.seed,
    )  # fmt: skip
    windows = measure(
        plan.task,
        scores_NK,
        np.array([target for *_, target in samples]),
        [w.group for w, *_ in samples],
        resamples=0,
        seed=0,
    )
    row = AdaptRow(
        mode=mode, init=init, measures=measured.measures,
        window_measures={name: figure.value for name, figure in windows.measures.items()},
        per_output=measured.per_output, by_manipulation=_by_manipulation(study, subjects),
        reliability=measured.reliability, clips_train=len(train) * per, clips_val=len(sides["val"]) * per,
        clips_test=len(samples), subjects_test=len(subjects), videos_test=len({w.clip.video for w in sides["test"]}),
        groups_test=measured.groups, people_test=count_people(sides["test"]), best_epoch=best_epoch,
        train_loss=losses[0], val_loss=losses[1], seconds=round(time.monotonic() - start, 2),
    )  # fmt: skip
    return _Outcome(row, scores, subjects)


def _by_manipulation(study: Study, subjects: Sequence[Subject]) -> dict[str, dict[str, float]]:
    """Accuracy and AUC of each method's fakes against all real subjects."""
    rows = {}
    for method in sorted({s.manipulation for s in subjects} - {""}):
        chosen = [s for s in subjects if s.manipulation in ("", method)]
        if len({s.target for s in chosen}) == 2:
            measured = measure(
                study.plan.task, np.stack([s.scores_K for s in chosen]), np.array([s.target for s in chosen]),
                [s.group for s in chosen], resamples=0, seed=0,
            )  # fmt: skip
            rows[method] = {name: measured.measures[name].value for name in ("accuracy", "auc")}
    return rows


def _facts(study: Study) -> dict[str, object]:
    """What weight files say of themselves: enough to use them, and what they stand on."""
    task, version, cfg = study.plan.task, study.reader.version, study.cfg
    labels = labels_of(task.name, cfg.data.dataset, version.version)
    return {
        "kind": f"{ADAPTED}{task.name}",
        "task": {"name": task.name, "kind": task.kind, "outputs": list(task.outputs)},
        "fakes": study.plan.pixels.variants.name,
        "dataset": cfg.data.dataset,
        "dataset_version": version.version,
        "crop": crop_of(version.recipe),
        PRETRAINING: dict(study.choice.provenance),
        "pretrained_weights": cfg.weights,
        "pretrained_sha256": study.choice.digest,
        "labels_learnt": [labels] if cfg.finetune.enabled else [],
        "adapted_on_licences": list(_licences(study)),
    }


def _licences(study: Study) -> tuple[str, ...]:
    return united(dataset_licences(study.reader.version), study.choice.licences)


def _notes(study: Study) -> list[str]:
    """Sentences about how far the numbers reach; they belong beside the table."""
    plan = study.plan
    people, groups = count_people(plan.windows), len({w.group for w in plan.windows})
    videos = len({w.clip.video for w in plan.windows})
    who = f"{people} people" if people is not None else "an unknown number of people"
    notes = [f"Behind these numbers stand {videos} videos of {who}; {plan.split.describe()}.", *plan.notes]
    if groups < FEW_GROUPS:
        notes.append(
            f"With {groups} independent videos or people the numbers show that the chain works; "
            "they say nothing about other people or other videos."
        )
    if plan.split.kind == "time":
        notes.append("Training and test show the same people at different times; on strangers results will be lower.")
    if plan.pixels.variants.name == "self_blend":
        notes.append("Fakes are self-blended clips, not forgeries made by a deepfake method.")
    if study.choice.provenance.get("dataset"):
        notes.append("The encoder was pretrained, without labels, on a dataset that may hold the tested videos.")
    if note := licence_note(_licences(study)):
        notes.append(note)
    return notes


def _training_notes(study: Study, rows: Sequence[AdaptRow | FewShotRow]) -> list[str]:
    """Sentences about how the numbers were trained for."""
    task, last = study.plan.task, study.cfg.probe.epochs - 1
    notes = []
    train = np.array(targets_of(study.plan.pixels.variants, study.plan.split.sides["train"]), np.float32)
    weights_K = class_weights(task, train)
    if weights_K is not None and not torch.allclose(weights_K, torch.ones_like(weights_K), atol=SAME_SHARE):
        notes.append(
            "The classes are not equally frequent and weighed alike in the loss (balanced=true): probabilities, and "
            "with them accuracy at 0.5 and ece, are those of equally frequent classes."
        )
    if any(row.mode == "LP" and row.best_epoch == last for row in rows):
        notes.append(f"A linear probe was still improving at its last epoch ({last + 1}); raise probe.epochs.")
    return notes
