"""Frozen features of windows, computed once and kept by a digest of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from infra.progress import Progress
from model.adapt.pixels import ClipPixels, Sample
from model.adapt.samples import Draw

_log = logging.getLogger(__name__)
_REVISION = 1
"""Raise it when decoding, blending or pooling changes its results: old caches are then left alone."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Pooled features float32 (N, D) and labels int64 (N,) of the samples of ``draws``, draw by draw."""

    features_ND: np.ndarray
    labels_N: np.ndarray
    draws: tuple[Draw, ...]

    def of(self, draws: Sequence[Draw]) -> FeatureTable:
        """Return the rows of some draws, in their order."""
        per_draw = len(self.labels_N) // len(self.draws)
        place = {draw: i * per_draw for i, draw in enumerate(self.draws)}
        rows = np.array([place[draw] + i for draw in draws for i in range(per_draw)], dtype=np.int64)
        return FeatureTable(self.features_ND[rows], self.labels_N[rows], tuple(draws))


def compute_features(
    encoder: nn.Module,
    pixels: ClipPixels,
    draws: Sequence[Draw],
    *,
    batch: int,
    device: torch.device,
    cache: Path,
    label: str,
) -> FeatureTable:
    """Compute the pooled features of all samples of ``draws``, or load them from ``cache``.

    ``encoder`` maps uint8 clips (B, T, H, W, 3) to features (B, D) (``model.adapt.encoder``); it is left in eval mode.

    A cached file that cannot be read is computed again; caches are never trusted further than their digest.
    """
    path = cache / f"features-{features_digest(encoder, pixels, draws)[:24]}.npz"
    count = len(draws) * pixels.samples_per_draw
    cached = _load(path, count)
    if cached is not None:
        return FeatureTable(*cached, tuple(draws))
    encoder.eval().to(device)
    features: list[np.ndarray] = []
    labels: list[int] = []
    waiting: list[Sample] = []

    def flush() -> None:
        clip_BTHWC = torch.from_numpy(np.stack([s.frames_THWC for s in waiting])).to(device)
        with torch.inference_mode():
            features.append(encoder(clip_BTHWC).float().cpu().numpy())
        labels.extend(s.label for s in waiting)
        waiting.clear()

    with Progress(label, count, unit="clip") as progress:
        for samples in pixels.iter_samples(draws):
            for sample in samples:
                waiting.append(sample)
                if len(waiting) == batch:
                    flush()
                    progress.update(batch)
        if waiting:
            rest = len(waiting)
            flush()
            progress.update(rest)
    features_ND, labels_N = np.concatenate(features), np.asarray(labels, dtype=np.int64)
    _save(path, features_ND, labels_N)
    return FeatureTable(features_ND, labels_N, tuple(draws))


def features_digest(encoder: nn.Module, pixels: ClipPixels, draws: Sequence[Draw]) -> str:
    """Return the sha256 of all that decides the features: weights, clips (keys name their content), blends."""
    facts = {
        "revision": _REVISION,
        "weights": state_digest(encoder.state_dict()),
        "fakes": pixels.fakes,
        "seed": pixels.seed,
        "image_size": pixels.image_size,
        "units": {unit.unit: unit.tar_sha256 for unit in pixels.reader.version.units},
        "draws": [[draw.window.id, draw.number, *draw.window.indices] for draw in draws],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def state_digest(state: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of a state dict's names, shapes and values, whatever file it came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features_ND, labels_N = arrays["features"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("cached features %s cannot be read (%s); computing them again", path, error)
        return None
    if features_ND.ndim != 2 or len(features_ND) != count or labels_N.shape != (count,):
        _log.warning("cached features %s have shape %s, not %d rows; computing again", path, features_ND.shape, count)
        return None
    return features_ND, labels_N


def _save(path: Path, features_ND: np.ndarray, labels_N: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez(file, features=features_ND, labels=labels_N)
    temporary.replace(path)
