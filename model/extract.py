"""``extract``: pooled features of videos, one row a window, beside the frame span of each row."""

from __future__ import annotations

import hashlib
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

from infra.device import pick_device
from infra.errors import ConfigError
from infra.fetch import file_digest
from infra.paths import input_file, output_folder
from infra.progress import Progress
from model.adapt.encoder import pretrained_encoder
from model.clip_stream import PlannedWindow, WindowPlan
from model.extract_config import ExtractConfig
from model.video_windows import VideoWindows, WindowSettings
from model.weights import load_weights
from pipeline.faces.backend import detector_name
from pipeline.rejects import RejectError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WindowSpan:
    """Where one row of features comes from.

    Frames ``start_frame`` … ``end_frame - 1``, the same in the video's own seconds, and the number of the face track
    (None: the whole frame). Tracks are numbered by their first frame, then from left to right.
    """

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    track: int | None


@dataclass(frozen=True, slots=True)
class ExtractedVideo:
    """What became of one video.

    ``features`` and ``spans`` are the two files; ``reject`` is the reason where there is no feature, and ``features``
    is None then.
    """

    video: Path
    features: Path | None
    spans: Path
    windows: tuple[WindowSpan, ...]
    crop: str | None
    reject: str | None
    detail: str | None


def extract(cfg: ExtractConfig) -> list[ExtractedVideo]:
    """Extract features of each of ``cfg.videos`` into ``cfg.out``: ``<stem>.npy`` and ``<stem>.json``.

    The ``.npy`` is float32 (windows, encoder width), the ``.json`` says for each row which frames and seconds of which
    track it is, and names the weights by digest. Videos whose stems clash get the first 8 digits of their sha256
    behind the stem. A video that cannot be used is a result, too: its ``.json`` has the reason and no ``.npy`` lies
    beside it.

    Raises:
        ConfigError: a path is no file, or settings are wrong; nothing has been written then.
        WeightsError: the weights cannot be read.
    """
    if not cfg.videos:
        raise ConfigError("no video is named; give at least one file")
    paths = list(dict.fromkeys(map(input_file, cfg.videos)))
    if not cfg.weights:
        raise ConfigError("no weights are named: give --weights a file or a run folder of `marlin pretrain`")
    out = output_folder(cfg.out)
    weights, device = load_weights(cfg.weights), pick_device(cfg.device)
    encoder = pretrained_encoder(weights).eval().to(device)
    facts = {
        "weights": {"model": weights.config.name, "sha256": weights.digest},
        "feature": "mean over tokens, then LayerNorm",
        "detector": detector_name(cfg.faces),
    }
    wanted = WindowSettings(
        cfg.crop, weights.config.frames, weights.config.image_size, cfg.keep_tail, cfg.faces, cfg.track, cfg.limits
    )
    with VideoWindows(wanted) as videos:
        extractor = _Extractor(cfg, out, encoder, videos, device, facts)
        return [extractor.extract(path, stem) for path, stem in output_stems(paths, out).items()]


def output_stems(paths: Sequence[Path], out: Path) -> dict[Path, str]:
    """Return the output stem of each video; the same content twice under one stem is listed once.

    A stem gets a digest behind it where two videos of this call share it (upper and lower case alike: some file
    systems do not tell them apart), or where ``out`` holds another video's features under it.
    """
    digests = {path: _digest(path) for path in paths}
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


def _digest(path: Path) -> str:
    """The sha256 of the content; of the name, where the content cannot be read (which probing then says)."""
    try:
        return file_digest(path)
    except OSError:
        return hashlib.sha256(f"unreadable:{path.name}".encode()).hexdigest()


def _owner(spans: Path) -> str | None:
    """The sha256 of the video that an existing spans file belongs to; None where there is no such file."""
    try:
        found = json.loads(spans.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found["sha256"]) if isinstance(found, dict) and "sha256" in found else None


@dataclass(frozen=True)
class _Extractor:
    """What all videos of one call share."""

    cfg: ExtractConfig
    out: Path
    encoder: nn.Module
    videos: VideoWindows
    device: torch.device
    facts: Mapping[str, Any]

    def extract(self, path: Path, stem: str) -> ExtractedVideo:
        """Write the files of one video; a video that cannot be used becomes a record of why."""
        npy, spans = self.out / f"{stem}.npy", self.out / f"{stem}.json"
        record: dict[str, Any] = {"video": path.name, "sha256": _digest(path), **self.facts}
        try:
            plan = self.videos.look(path)
            features_ND = self._features(plan, path)
        except RejectError as reject:
            npy.unlink(missing_ok=True)
            _write_json(spans, {**record, "reject": reject.reason.value, "detail": reject.detail, "windows": []})
            _log.warning("%s gives no features: %s (%s)", path, reject.reason.value, reject.detail)
            return ExtractedVideo(path, None, spans, (), None, reject.reason.value, reject.detail)
        windows = tuple(_span(window, plan) for window in plan.windows)
        _write_npy(npy, features_ND)
        record |= {"reject": None, "detail": None, "crop": plan.crop, "fps": plan.info.fps, "frames": plan.frames}
        _write_json(spans, {**record, "windows": [asdict(window) for window in windows]})
        return ExtractedVideo(path, npy, spans, windows, plan.crop, None, None)

    def _features(self, plan: WindowPlan, path: Path) -> np.ndarray:
        """Pooled features in the order of the plan, float32 (N, D)."""
        rows: list[int] = []
        found: list[np.ndarray] = []
        with Progress(f"features of {path.name}", len(plan.windows), unit="window") as progress:
            for windows in self.videos.batches(path, plan, self.cfg.batch):
                rows += [window.row for window in windows]
                clip_BTHWC = torch.from_numpy(np.stack([window.frames_THWC for window in windows])).to(self.device)
                with torch.inference_mode():
                    found.append(self.encoder(clip_BTHWC).float().cpu().numpy())
                progress.update(len(windows))
        features_ND: np.ndarray = np.concatenate(found)[np.argsort(rows)]
        return features_ND


def _span(window: PlannedWindow, plan: WindowPlan) -> WindowSpan:
    start, end = window.indices[0], window.indices[-1] + 1
    return WindowSpan(start, end, round(plan.seconds(start), 6), round(plan.seconds(end), 6), window.track)


def _write_npy(path: Path, array: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    temporary.replace(path)


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(tree, indent=1, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
