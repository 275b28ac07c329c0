"""``predict``: an adapted encoder on a video in the wild: faces, sliding windows, a score over time for each face."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import torch

from infra.config import validate_config
from infra.device import pick_device
from infra.errors import ConfigError, MediaError, WeightsError
from infra.fetch import file_digest
from infra.paths import input_file, output_folder
from model.adapt.annotate import ScoredFace
from model.adapt.annotated_video import Annotation, write_annotated
from model.adapt.classifier import Classifier
from model.adapt.encoder import head_of, pretrained_encoder
from model.adapt.files import replaced
from model.adapt.grad_cam import grad_cam, overlay
from model.adapt.objective import probabilities
from model.adapt.task import Kind
from model.adapt_config import PredictConfig
from model.clip_stream import WindowPixels, WindowPlan
from model.extract import output_stems
from model.licences import licence_note, weight_licences
from model.provenance import crop_behind
from model.video_windows import VideoWindows, WindowSettings
from model.weights import LoadedWeights, load_weights
from pipeline.config import TrackConfig
from pipeline.faces.backend import detector_name

matplotlib.use("Agg")
from matplotlib import pyplot as plt

logger = logging.getLogger(__name__)
MOST_LINES = 6
"""Outputs drawn in one plot: those that vary most."""


class AdaptedTask(NamedTuple):
    """What an adapted weight file says that it predicts."""

    name: str
    kind: Kind
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What ``predict`` wrote, and the mean score of each output for each face (by track; None is the whole frame)."""

    scores: Path
    plot: Path
    annotated: Path | None
    cam: Path | None
    outputs: tuple[str, ...]
    faces: dict[int | None, np.ndarray]
    note: str | None


def predict(cfg: PredictConfig) -> Prediction:
    """Score every face of ``cfg.video`` over time.

    The ``.json`` has one entry a face: its mean scores, the scores of each window with frames and seconds, and its box
    in each frame. The ``.png`` draws scores over time, ``-annotated.mp4`` both into the video's frames, without sound.
    Where ``cfg.out`` holds another video's files under this stem, the first 8 digits of the sha256 stand behind it.

    Faces are cut out as in the dataset that was adapted on, but for what ``cfg.track`` sets.

    Raises:
        ConfigError: no such video, or no such output to explain.
        WeightsError: the weights are not those of an adapted encoder.
        RejectError: the video cannot be decoded, or shows no face.
    """
    video, out = input_file(cfg.video), output_folder(cfg.out)
    weights, device = load_weights(cfg.weights), pick_device(cfg.device)
    task = adapted_task(weights, cfg.weights)
    if cfg.explain and cfg.explain not in task.outputs:
        raise ConfigError(f"there is no output '{cfg.explain}' to explain; there are {', '.join(task.outputs)}")
    classifier = Classifier(pretrained_encoder(weights), head_of(weights.state)).eval().to(device)
    explained = task.outputs.index(cfg.explain) if cfg.explain else None
    shape = weights.config
    wanted = WindowSettings(
        cfg.crop, shape.frames, shape.image_size, True, cfg.faces, track_as_learnt(cfg, weights.provenance), cfg.limits,
        cfg.window_stride,
    )  # fmt: skip
    with VideoWindows(wanted) as videos:
        plan = videos.look(video)
        if plan.crop == "face":
            _warn_of_other_crops(cfg, weights.provenance)
        batches = videos.batches(video, plan, cfg.batch)
        scores_NK, best = _scores(classifier, task, plan, batches, device, explained)
    fps, faces = plan.info.fps, _scored_faces(plan, scores_NK)
    licences = weight_licences(weights.provenance)
    record = {
        "video": video.name, "sha256": file_digest(video), "task": task._asdict(), "weights_sha256": weights.digest,
        "licences": licences, "crop": plan.crop, "fps": fps, "frames": plan.frames,
        "faces": [_record(face, task, plan) for face in faces],
    }  # fmt: skip
    stem = output_stems([video], out)[video]
    path, plot = out / f"{stem}.json", out / f"{stem}.png"
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    _draw(plot, plan, scores_NK, task)
    annotated = None
    if cfg.annotate:
        annotated = out / f"{stem}-annotated.mp4"
        try:
            with replaced(annotated) as temporary:
                write_annotated(
                    Annotation(
                        str(video), str(temporary), plan.frames, fps, tuple(faces), task.outputs, task.kind,
                        task.name == "deepfake",
                    ),
                    cfg.limits,
                )  # fmt: skip
        except MediaError as error:  # its scores are there, and stay
            logger.warning("%s is not annotated: %s", video.name, error)
            annotated = None
    cam = None
    if explained is not None:
        cam = out / f"{stem}-cam.png"
        rows = [overlay(clip_THWC, grad_cam(classifier, clip_THWC, explained)) for _, clip_THWC in best.values()]
        _, data = cv2.imencode(".png", np.concatenate(rows)[..., ::-1])
        cam.write_bytes(data.tobytes())
    means = {face.track: face.scores_NK.mean(axis=0) for face in faces}
    return Prediction(path, plot, annotated, cam, task.outputs, means, licence_note(licences))


def adapted_task(weights: LoadedWeights, path: str) -> AdaptedTask:
    """Return what weights predict.

    Raises:
        WeightsError: they were not adapted to anything, or hold no head.
    """
    told = weights.provenance.get("task")
    if not isinstance(told, dict) or "head.weight" not in weights.state:
        raise WeightsError(f"{path} holds no encoder that was adapted; name adapted.safetensors of `marlin adapt`")
    task = AdaptedTask(str(told.get("name")), told.get("kind", "binary"), tuple(map(str, told.get("outputs", ()))))
    if weights.state["head.weight"].shape != (len(task.outputs), weights.config.encoder_dim):
        raise WeightsError(f"{path}: its head does not fit its {len(task.outputs)} outputs; adapt anew")
    return task


def track_as_learnt(cfg: PredictConfig, provenance: Mapping[str, Any]) -> TrackConfig:
    """Return the settings by which the faces that were adapted on were cut out, under those that the user set."""
    learnt = crop_behind(provenance).get("track")
    told = learnt if isinstance(learnt, Mapping) else {}
    known = {name: value for name, value in told.items() if name in TrackConfig.model_fields}
    own = cfg.track.model_dump(include=cfg.track.model_fields_set)
    return validate_config(TrackConfig, {**known, **own}, where="the track settings of the weights and the given ones")


def _warn_of_other_crops(cfg: PredictConfig, provenance: Mapping[str, Any]) -> None:
    learnt, here = crop_behind(provenance), detector_name(cfg.faces)
    if "track" not in learnt:
        logger.warning(
            "%s does not say how the faces that it learnt from were cut out, and they may look different here (margin "
            "%g); set track as the dataset's recipe has it, or adapt again", cfg.weights, cfg.track.margin,
        )  # fmt: skip
    if (then := learnt.get("detector")) not in (None, here):
        logger.warning(
            "%s learnt from faces that %s found, and here %s finds them; set faces as the dataset's recipe has it",
            cfg.weights, then, here,
        )  # fmt: skip


def _scores(
    classifier: Classifier,
    task: AdaptedTask,
    plan: WindowPlan,
    batches: Iterable[list[WindowPixels]],
    device: torch.device,
    explained: int | None,
) -> tuple[np.ndarray, dict[int | None, tuple[float, np.ndarray]]]:
    """Scores of all windows in the plan's order, float64 (N, K), and of each face its best window for ``explained``."""
    found: dict[int, np.ndarray] = {}
    best: dict[int | None, tuple[float, np.ndarray]] = {}
    for windows in batches:
        clip_BTHWC = torch.from_numpy(np.stack([window.frames_THWC for window in windows])).to(device)
        with torch.inference_mode():
            scores_BK = probabilities(task.kind, classifier(clip_BTHWC)).cpu().numpy()
        for (row, clip_THWC), scores_K in zip(windows, scores_BK, strict=True):
            found[row] = scores_K
            track = plan.windows[row].track
            if explained is not None and (track not in best or scores_K[explained] > best[track][0]):
                best[track] = (float(scores_K[explained]), clip_THWC)
    return np.stack([found[row] for row in range(len(plan.windows))]), best


def _rows_by_track(plan: WindowPlan) -> dict[int | None, list[int]]:
    rows: dict[int | None, list[int]] = defaultdict(list)
    for row, window in enumerate(plan.windows):
        rows[window.track].append(row)
    return rows


def _scored_faces(plan: WindowPlan, scores_NK: np.ndarray) -> list[ScoredFace]:
    faces = []
    for track, rows in _rows_by_track(plan).items():
        path = None if track is None else plan.tracks[track]
        spans = [(plan.windows[row].indices[0], plan.windows[row].indices[-1] + 1) for row in rows]
        start, boxes_F4 = (path.start, path.boxes_F4) if path else (0, None)
        faces.append(ScoredFace(track, start, boxes_F4, np.array(spans), scores_NK[rows]))
    return faces


def _record(face: ScoredFace, task: AdaptedTask, plan: WindowPlan) -> dict[str, Any]:
    return {
        "track": face.track,
        "mean": _named(task.outputs, face.scores_NK.mean(axis=0)),
        "windows": [
            {
                "start_frame": start, "end_frame": end,
                "start_s": round(plan.seconds(start), 6), "end_s": round(plan.seconds(end), 6),
                "scores": _named(task.outputs, scores_K),
            }
            for (start, end), scores_K in zip(face.spans_N2.tolist(), face.scores_NK, strict=True)
        ],
        "start_frame": face.start,
        "boxes": None if face.boxes_F4 is None else face.boxes_F4.astype(float).round(1).tolist(),
    }  # fmt: skip


def _named(outputs: Sequence[str], scores_K: np.ndarray) -> dict[str, float]:
    return {name: round(float(score), 6) for name, score in zip(outputs, scores_K, strict=True)}


def _draw(path: Path, plan: WindowPlan, scores_NK: np.ndarray, task: AdaptedTask) -> None:
    """Draw scores over time, one panel a face."""
    faces = _rows_by_track(plan)
    shown = sorted(range(len(task.outputs)), key=lambda k: -float(np.ptp(scores_NK[:, k])))[:MOST_LINES]
    figure, axes = plt.subplots(len(faces), 1, figsize=(9, 2.4 * len(faces)), layout="constrained", squeeze=False)
    for axis, (track, rows) in zip(axes[:, 0], faces.items(), strict=True):
        indices = [plan.windows[row].indices for row in rows]
        middles = [(plan.seconds(its[0]) + plan.seconds(its[-1] + 1)) / 2 for its in indices]
        for k in shown:
            axis.plot(middles, scores_NK[rows, k], marker="o", markersize=3, linewidth=1.4, label=task.outputs[k])
        axis.set(title="whole frame" if track is None else f"face {track}", xlabel="s", ylabel=task.name)
        if task.kind != "regression":
            axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
