"""Does pretraining help? Tasks whose answers are known, made from real faces, with intervals.

    python -m benchmarks.adapt_known_answers DATASET WEIGHTS WORK > benchmarks/adapt_known_answers_DATE.md

DATASET is an ingest of the sample videos with ``clip.max_frames=32`` (a clip is then one window). Four tasks:

- three actions, labelled by landmarks: each clip against the median of its own video, so that nobody is recognised by
  face. ``mouth``: the mouth is more open (68 points); ``turn``: the head is turned more to one side (the five stored
  landmarks); ``blink``: an eye closes on the way (68 points);
- ``edits``: attributes drawn onto copies of the clips at their landmarks (glasses, hat, warm light, dim light), any two
  of which are independent; the copies go through ingestion like any videos.

Each of the five people is held out in turn; the scores of all are pooled. With ``--same-people`` (edits) the last third
of each video is tested instead. The pretrained and a randomly initialised encoder see the same clips. The interval of
their difference resamples videos, the same ones for both. ``--zero-head-epochs`` fine-tunes in place of probing, from a
head of zeros and not from the probe's, so that the two differ in where their encoders start and in nothing else.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn

from infra.config import config_digest
from model.adapt.classifier import Classifier
from model.adapt.encoder import classifier_state, random_encoder
from model.adapt.finetune import classifier_scores, finetune, make_job
from model.adapt.metrics import figures
from model.adapt.run import adapt
from model.adapt.study import open_study
from model.adapt.task import TaskSpec
from model.adapt_config import AdaptConfig
from model.weights import load_weights, save_weights
from pipeline.config import ClipConfig, IngestConfig
from pipeline.dataset.reader import DatasetReader, RawClip, open_dataset
from pipeline.faces.landmarks68 import INNER_MOUTH, LEFT_EYE, RIGHT_EYE, LandmarkParser
from pipeline.ingest import ingest
from pipeline.media.decode import decode_clip
from pipeline.media.encode import encode_clip

PEOPLE = {
    "video01": "a", "cropped01": "a", "cropped05": "a", "004": "b", "004_982": "b", "noface_face": "c",
    "single_face": "c", "face_noface": "c", "WolfgangLanger_Pexels": "d", "video03": "e",
}  # fmt: skip
"""Who is seen in which video, by eye."""
EDITS = ("glasses", "hat", "warm", "dim")
SIDE = 224
EVERY = 4
"""Frames between those that are measured."""
RESAMPLES = 2000


def main() -> None:
    """Label, edit, adapt, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("weights")
    parser.add_argument("work", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["mouth", "turn", "blink", "edits"])
    parser.add_argument("--same-people", action="store_true", help="test on the last third of each video instead")
    parser.add_argument("--finetune-epochs", type=int, default=0, help="fine-tune as well, for so many epochs")
    parser.add_argument("--zero-head-epochs", type=int, default=0, help="fine-tune from a head of zeros instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random encoder and the order of training")
    parser.add_argument("--copies", type=int, default=2, help="edited copies of a clip, an even number")
    chosen = parser.parse_args()
    work: Path = chosen.work
    work.mkdir(parents=True, exist_ok=True)
    reader = open_dataset(chosen.dataset)
    tables = label_actions(reader)
    edited = work / "edited"
    if not (edited / "labels.csv").exists():
        write_edits(reader, edited, chosen.copies)
    ingest(IngestConfig(sources=(str(edited),), out=str(work / "edited-dataset"), clip=ClipConfig(max_frames=32)))
    tables["edits"] = read_rows(edited / "labels.csv")
    encoders = {"pretrained": chosen.weights, "random": str(write_random(chosen.weights, work, chosen.seed))}
    print("| task | kind | mode | videos | clips | AUC pretrained | AUC random | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen.tasks:
        source = str(work / "edited-dataset") if name == "edits" else chosen.dataset
        folds = last_third(tables[name]) if chosen.same_people else people_held_out(tables[name])
        outputs = [column for column in tables[name][0] if column not in ("path", "identity", "split")]
        epochs = chosen.zero_head_epochs or chosen.finetune_epochs
        test = (
            partial(finetune_from_zero, work) if chosen.zero_head_epochs else partial(probe_and_finetune, work, outputs)
        )
        pooled = test_each(name, folds, encoders, partial(settings, name, source, work, epochs, chosen.seed), test)
        for mode in dict.fromkeys(mode for mode, _ in pooled):
            print(row_of(name, tables[name], mode, pooled), flush=True)


def write_random(weights: str, work: Path, seed: int) -> Path:
    """Write the same network as it begins."""
    config, path = load_weights(weights).config, work / f"random-{seed}.safetensors"
    classifier = Classifier(random_encoder(config, seed), nn.Linear(config.encoder_dim, 1))
    save_weights(path, classifier_state(classifier), config, {})
    return path


def clips_of(reader: DatasetReader) -> Iterator[tuple[RawClip, str]]:
    """Yield every clip of more than one window and the stem of its video's name."""
    for shard in reader.shards:
        for row in range(reader.manifest(shard.unit).num_rows):
            raw = reader.read_clip(shard.unit, row)
            if raw.meta.frames >= 16:
                yield raw, Path(raw.meta.name).stem


def measure_clip(raw: RawClip, parser: LandmarkParser) -> dict[str, float]:
    """Return how open the mouth is, how far the head is turned, and how closed the eyes get, all over face sizes."""
    frames_THWC = decode_clip(raw.mp4, range(0, raw.meta.frames, EVERY))
    mouths, eyes, turns = [], [], []
    for number, frame_HWC in enumerate(frames_THWC):
        points_52 = in_crop(raw, number * EVERY)
        points_68 = parser.points(frame_HWC, points_52)
        mouths.append(openness(points_68[INNER_MOUTH]))
        eyes.append((openness(points_68[LEFT_EYE]) + openness(points_68[RIGHT_EYE])) / 2)
        turns.append((points_52[2, 0] - points_52[:2, 0].mean()) / max(np.ptp(points_52[:2, 0]), 1.0))
    return {"mouth": float(np.mean(mouths)), "turn": float(np.mean(turns)), "blink": -float(np.min(eyes))}


def in_crop(raw: RawClip, frame: int) -> np.ndarray:
    """Return the five stored landmarks of a frame in pixels of the crop, float64 (5, 2)."""
    x0, y0, x1, y1 = raw.meta.crops[frame]
    return (np.asarray(raw.meta.landmarks[frame]) - (x0, y0)) * SIDE / (x1 - x0, y1 - y0)


def openness(points_P2: np.ndarray) -> float:
    """Return height over width of an eye or a mouth."""
    return float(np.ptp(points_P2[:, 1]) / max(np.ptp(points_P2[:, 0]), 1.0))


def label_actions(reader: DatasetReader) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a csv for each action: a clip is 1 where it has more of it than the median of its video."""
    parser = LandmarkParser()
    found = defaultdict(list)
    for raw, stem in clips_of(reader):
        found[stem].append((raw.key, measure_clip(raw, parser)))
    tables: dict[str, list[dict[str, str]]] = {}
    for action in ("mouth", "turn", "blink"):
        tables[action] = []
        for stem, clips in found.items():
            middle = np.median([values[action] for _, values in clips])
            tables[action] += [
                {"path": key, action: str(int(values[action] > middle)), "identity": PEOPLE[stem]}
                for key, values in clips
            ]
    return tables


def write_edits(reader: DatasetReader, folder: Path, copies: int) -> None:
    """Write pairs of copies of every clip with complementary edits, and the csv of their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for raw, stem in clips_of(reader):
        frames_THWC = decode_clip(raw.mp4, range(raw.meta.frames))
        first = [rng.integers(0, 2, len(EDITS)) for _ in range(copies // 2)]
        for copy, chosen in enumerate(edits for one in first for edits in (one, 1 - one)):
            edited = [edit(frame, in_crop(raw, t), chosen) for t, frame in enumerate(frames_THWC)]
            name = f"{raw.key}-{copy}.mp4"
            (folder / name).write_bytes(encode_clip(np.stack(edited), raw.meta.fps, ClipConfig()))
            labels = {edit_name: str(value) for edit_name, value in zip(EDITS, chosen, strict=True)}
            rows.append({"path": name, **labels, "identity": PEOPLE[stem]})
    write_rows(folder / "labels.csv", rows)


def edit(frame_HWC: np.ndarray, points_52: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Draw the chosen edits onto a frame, at its eyes."""
    picture = frame_HWC.copy()
    right, left = points_52[0], points_52[1]
    apart = max(float(np.linalg.norm(left - right)), 8.0)
    if chosen[0]:
        for eye in (right, left):
            cv2.circle(picture, tuple(map(round, eye)), round(apart * 0.36), (25, 25, 25), max(2, round(apart * 0.07)))
        cv2.line(picture, tuple(map(round, right)), tuple(map(round, left)), (25, 25, 25), 2)
    if chosen[1]:
        middle = (right + left) / 2 - (0, apart * 0.95)
        x0, x1 = round(middle[0] - apart * 1.25), round(middle[0] + apart * 1.25)
        cv2.rectangle(picture, (x0, max(0, round(middle[1] - apart))), (x1, round(middle[1])), (60, 30, 90), -1)
    values = picture.astype(np.float32)
    if chosen[2]:
        values *= (1.15, 1.0, 0.8)
    if chosen[3]:
        values *= 0.7
    return np.clip(values, 0, 255).astype(np.uint8)


def people_held_out(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return a csv for every person: tested on that person, trained on all others."""
    return {
        person: [{**row, "split": "test" if row["identity"] == person else "train"} for row in rows]
        for person in sorted(set(PEOPLE.values()))
    }


def last_third(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return one csv that tests on the last third of each video; edits alone, whose copies are videos of their own.

    Training and test show the same people. That helps nobody: each copy's edits are drawn at random.
    """
    by_video = defaultdict(list)
    for row in rows:
        by_video[row["path"][:16]].append(row)
    split = []
    for members in by_video.values():
        members.sort(key=lambda row: row["path"])
        for place, row in enumerate(members):
            kept = {name: value for name, value in row.items() if name != "identity"}
            split.append({**kept, "split": "test" if place >= 2 * len(members) / 3 else "train"})
    return {"time": split}


class Tested(NamedTuple):
    """One tested clip: its fold, scores (K,) and labels (K,)."""

    fold: str
    scores_K: np.ndarray
    truth_K: np.ndarray


Pooled = Mapping[tuple[str, str], Mapping[str, list[Tested]]]
"""(mode, encoder) → video → its clips."""
Scored = tuple[str, str, np.ndarray, np.ndarray]
"""Mode, name of the video, scores (K,), labels (K,)."""
Settle = Callable[[str, list[dict[str, str]], str], AdaptConfig]
Test = Callable[[AdaptConfig, str], Iterable[Scored]]


def test_each(
    name: str, folds: Mapping[str, list[dict[str, str]]], encoders: Mapping[str, str], settle: Settle, test: Test
) -> Pooled:
    """Adapt each encoder once for every fold, and return what was tested."""
    pooled: dict[tuple[str, str], dict[str, list[Tested]]] = defaultdict(lambda: defaultdict(list))
    for (fold, rows), (encoder, weights) in itertools.product(folds.items(), encoders.items()):
        cfg = settle(fold, rows, weights)
        for mode, video, scores_K, truth_K in test(cfg, f"{name}-{fold}-{encoder}-{config_digest(cfg)[:8]}"):
            video = video[:16] if name == "edits" else video
            pooled[mode, encoder][video].append(Tested(fold, scores_K, truth_K))
    return pooled


def probe_and_finetune(work: Path, outputs: list[str], cfg: AdaptConfig, run: str) -> Iterator[Scored]:
    """Run ``marlin adapt``; yield what its file of scores says."""
    report = adapt(cfg, work / f"run-{run}")
    for line in read_rows(report.run_dir / "video_scores.csv"):
        scores = [float(line["score"])] if "score" in line else [float(line[f"score.{o}"]) for o in outputs]
        truth = [line["label"] == outputs[0]] if "label" in line else [line[f"label.{o}"] == "1" for o in outputs]
        yield line["mode"], line["name"], np.array(scores), np.array(truth, float)


def finetune_from_zero(work: Path, cfg: AdaptConfig, run: str) -> Iterator[Scored]:
    """Fine-tune under a head of zeros; yield the scores of the test side."""
    folder, device = work / f"zero-{run}", torch.device("cpu")
    study = open_study(cfg, folder, device)
    plan, choice, sides = study.plan, study.choice, study.plan.split.sides
    head = nn.Linear(choice.config.encoder_dim, plan.task.width)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    classifier = Classifier(choice.build(), head)
    finetune(make_job(cfg, plan.task, plan.pixels, choice, sides), classifier, folder)
    scores_NK = classifier_scores(plan.task, classifier, plan.pixels, sides["test"], batch=8, device=device)
    for window, scores_K in zip(sides["test"], scores_NK, strict=True):
        (target,) = plan.pixels.variants.targets(window)
        yield "FT, head from 0", window.clip.name, scores_K, np.atleast_1d(target)


def settings(
    name: str, dataset: str, work: Path, epochs: int, seed: int, fold: str, rows: list[dict[str, str]], weights: str
) -> AdaptConfig:
    """Write the labels of a fold and return the settings that adapt to it; without epochs nothing is fine-tuned."""
    file = work / f"{name}-{fold}.csv"
    write_rows(file, rows)
    return AdaptConfig.model_validate({
        "task": "custom", "weights": weights, "cache": str(work / "cache"), "device": "cpu", "threads": 1, "seed": seed,
        "data": {
            "dataset": dataset, "labels": str(file), "split": "manifest", "allow_partial": True,
            "windows_per_clip": 1, "min_groups": 2,
        },
        "bootstrap": 100, "baseline": False, "save_adapted": False,
        "finetune": {
            "enabled": epochs > 0, "epochs": max(epochs, 1), "lr": 5e-4, "layer_decay": 1.0, "head_lr": 1e-3,
        },
    })  # fmt: skip


def row_of(name: str, rows: list[dict[str, str]], mode: str, pooled: Pooled) -> str:
    """Return one line of the table: both AUCs, and their difference with its interval."""
    columns = [column for column in rows[0] if column not in ("path", "identity", "split")]
    task = TaskSpec(name, "multilabel", tuple(columns), lambda labels: None, "")
    key = "macro_auc" if len(columns) > 1 else "auc"
    videos = sorted(pooled[mode, "pretrained"])

    def areas(chosen: list[str]) -> np.ndarray:
        found = []
        for encoder in ("pretrained", "random"):
            clips = [clip for video in chosen for clip in pooled[mode, encoder][video]]
            found.append(
                figures(task, np.stack([c.scores_K for c in clips]), np.stack([c.truth_K for c in clips]))[key]
            )
        return np.array(found)

    rng = np.random.default_rng(0)
    drawn = np.stack(
        [areas([videos[i] for i in rng.integers(len(videos), size=len(videos))]) for _ in range(RESAMPLES)]
    )
    point = areas(videos)
    low, high = np.quantile(np.column_stack([drawn, drawn[:, 0] - drawn[:, 1]]), [0.025, 0.975], axis=0)
    cells = [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip([*point, point[0] - point[1]], low, high, strict=True)]
    tested = [clip for clips in pooled[mode, "pretrained"].values() for clip in clips]
    kind = "4 labels, macro" if len(columns) > 1 else "binary"
    return f"| {name} | {kind} | {mode} | {len(videos)} | {len(tested)} | {' | '.join(cells)} |"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write a csv."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
