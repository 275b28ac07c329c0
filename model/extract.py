"""``extract``: pooled features of videos, one row a window, beside the frame span of each row."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from infra.errors import ConfigError
from infra.fetch import file_digest
from infra.progress import Progress
from model.adapt.encoder import pretrained_encoder
from model.adapt.features import state_digest
from model.adapt.run import choose_device
from model.clip_stream import PlannedWindow, WindowPlan, plan_video, window_stream
from model.extract_config import ExtractConfig
from model.weights import LoadedWeights, load_weights
from pipeline.faces.backend import FaceDetector, build_detector, detector_name
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import probe
from pipeline.rejects import RejectError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """Where one row of features comes from: frames ``start_frame`` … ``end_frame - 1``, the same in seconds, and the
    number of the face track (None: the whole frame)."""

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    track: int | None


@dataclass(frozen=True, slots=True)
class ExtractedVideo:
    """What became of one video; ``features`` and ``spans`` are the two files, ``reject`` the reason where there is no
    feature (``features`` is None then)."""

    video: Path
    features: Path | None
    spans: Path
    windows: tuple[WindowSpan, ...]
    crop: str | None
    reject: str | None
    detail: str | None


def extract(videos: Sequence[str | Path], cfg: ExtractConfig) -> list[ExtractedVideo]:
    """Extract features of each video into ``cfg.out``: ``<stem>.npy`` and ``<stem>.json``.

    The ``.npy`` is float32 (windows, encoder width), the ``.json`` says for each row which frames and seconds of which
    track it is, and names the weights by digest. Videos whose stems clash get the first 8 digits of their sha256
    behind the stem. A video that cannot be used is a result, too: its ``.json`` has the reason and no ``.npy`` lies
    beside it.

    Raises:
        ConfigError: a path is no file, or settings are wrong; nothing has been written then.
        WeightsError: the weights cannot be read.
    """
    paths = _checked(videos)
    if not cfg.weights:
        raise ConfigError("no weights are named: give --weights a file or a run folder of `marlin pretrain`")
    weights, device = load_weights(cfg.weights), choose_device(cfg.device)
    encoder = pretrained_encoder(weights).eval().to(device)
    facts = {
        "weights": {"model": weights.config.name, "state_sha256": state_digest(encoder.state_dict())},
        "feature": "mean over tokens, then LayerNorm",
        "detector": detector_name(cfg.faces),
    }
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    detector = build_detector(cfg.faces)
    results = []
    with Progress("extract", len(paths), unit="video") as progress:
        for path, stem in output_stems(paths, out).items():
            results.append(_extract_one(path, out, stem, encoder, detector, weights, cfg, device, facts))
            done = results[-1]
            progress.update(note=f"{path.name}: {done.reject or f'{len(done.windows)} windows'}")
    return results


def output_stems(paths: Sequence[Path], out: Path) -> dict[Path, str]:
    """Return the output stem of each video; the same content twice under one stem is listed once.

    A stem gets a digest behind it where two videos of this call share it (upper and lower case alike: some file
    systems do not tell them apart), or where ``out`` holds another video's features under it.
    """
    digests = {path: file_digest(path) for path in paths}
    by_stem: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in paths:
        by_stem[path.stem.casefold()].setdefault(digests[path], path)
    clash = Counter({stem: len(owners) for stem, owners in by_stem.items()})
    stems: dict[Path, str] = {}
    for stem, owners in by_stem.items():
        for digest, path in owners.items():
            taken = clash[stem] > 1 or _owner(out / f"{path.stem}.json") not in (None, digest)
            stems[path] = f"{path.stem}-{digest[:8]}" if taken else path.stem
    return {path: stems[path] for path in paths if path in stems}


def _checked(videos: Sequence[str | Path]) -> list[Path]:
    if not videos:
        raise ConfigError("no video is named; give at least one file")
    paths = list(dict.fromkeys(Path(video) for video in videos))
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder; name its videos, e.g. {path}/*.mp4")
        if not path.is_file():
            raise ConfigError(f"{path} is not there; check the path")
    return paths


def _owner(spans: Path) -> str | None:
    """The sha256 of the video that an existing spans file belongs to; None where there is no such file."""
    try:
        found = json.loads(spans.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found["sha256"]) if isinstance(found, dict) and "sha256" in found else None


def _extract_one(
    path: Path,
    out: Path,
    stem: str,
    encoder: nn.Module,
    detector: FaceDetector,
    weights: LoadedWeights,
    cfg: ExtractConfig,
    device: torch.device,
    facts: Mapping[str, Any],
) -> ExtractedVideo:
    npy, spans = out / f"{stem}.npy", out / f"{stem}.json"
    record: dict[str, Any] = {"video": path.name, "sha256": file_digest(path), **facts}
    try:
        info = probe(str(path), cfg.max_pixels)
        frames = VideoFrames(str(path))
        plan = plan_video(
            frames,
            info,
            cfg.crop,
            detector=detector,
            track_cfg=cfg.track,
            window_frames=weights.config.frames,
            keep_tail=cfg.keep_tail,
            chunk=cfg.chunk_frames,
        )
        features_ND = _features(plan, frames, encoder, weights.config.image_size, cfg, device)
    except RejectError as reject:
        npy.unlink(missing_ok=True)
        _write_json(spans, {**record, "reject": reject.reason.value, "detail": reject.detail, "windows": []})
        _log.warning("%s gives no features: %s (%s)", path, reject.reason.value, reject.detail)
        return ExtractedVideo(path, None, spans, (), None, reject.reason.value, reject.detail)
    windows = tuple(_span(window, info.fps) for window in plan.windows)
    _write_npy(npy, features_ND)
    record |= {"reject": None, "detail": None, "crop": plan.crop, "fps": info.fps, "frames": plan.frames}
    _write_json(spans, {**record, "windows": [asdict(window) for window in windows]})
    return ExtractedVideo(path, npy, spans, windows, plan.crop, None, None)


def _features(
    plan: WindowPlan,
    frames: VideoFrames,
    encoder: nn.Module,
    side: int,
    cfg: ExtractConfig,
    device: torch.device,
) -> np.ndarray:
    """Pooled features in the order of the plan, float32 (N, D)."""
    rows: list[int] = []
    found: list[np.ndarray] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        clip_BTHWC = torch.from_numpy(np.stack(waiting)).to(device)
        with torch.inference_mode():
            found.append(encoder(clip_BTHWC).float().cpu().numpy())
        waiting.clear()

    for row, frames_THWC in window_stream(plan, frames, side, cfg.chunk_frames):
        rows.append(row)
        waiting.append(frames_THWC)
        if len(waiting) == cfg.batch:
            flush()
    if waiting:
        flush()
    features_ND: np.ndarray = np.concatenate(found)[np.argsort(rows)]
    return features_ND


def _span(window: PlannedWindow, fps: float) -> WindowSpan:
    start, end = window.indices[0], window.indices[-1] + 1
    return WindowSpan(start, end, round(start / fps, 6), round(end / fps, 6), window.track)


def _write_npy(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    temporary.replace(path)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(tree, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
