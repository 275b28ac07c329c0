"""Frozen features of windows, computed once per encoder and dataset version, whatever task or subset asks for them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import nn

from infra.progress import Progress
from model.adapt.pixels import ClipPixels, Sample
from model.adapt.samples import Draw
from pipeline.dataset.cached_features import UNREADABLE, features_path

_log = logging.getLogger(__name__)
_REVISION = 2
"""Raise it when decoding, blending or pooling changes its results: old caches are then left alone."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Pooled features float32 (N, D) and targets float32 (N, J) of the samples of ``draws``, draw by draw."""

    features_ND: np.ndarray
    targets_NJ: np.ndarray
    draws: tuple[Draw, ...]

    def of(self, draws: Sequence[Draw]) -> FeatureTable:
        """Return the rows of some draws, in their order."""
        per_draw = len(self.targets_NJ) // len(self.draws)
        place = {draw_name(draw): i * per_draw for i, draw in enumerate(self.draws)}
        rows = np.array([place[draw_name(draw)] + i for draw in draws for i in range(per_draw)], dtype=np.int64)
        return FeatureTable(self.features_ND[rows], self.targets_NJ[rows], tuple(draws))


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
    """Compute the pooled features of all samples of ``draws``; what ``cache`` holds already is not computed again.

    ``encoder`` maps uint8 clips (B, T, H, W, 3) to features (B, D) (``model.adapt.encoder``); it is left in eval mode.
    The cache is a folder per encoder and dataset version with one file a shard, written when that shard is done, so
    that an interrupted run goes on and another task over the same clips finds them.
    A damaged file is computed again; caches are never trusted further than their digest.
    """
    digest = features_digest(encoder, pixels)
    by_unit: dict[str, dict[str, Draw]] = defaultdict(dict)
    for draw in draws:
        by_unit[draw.window.clip.unit][draw_name(draw)] = draw
    paths = {unit: features_path(cache, digest, unit) for unit in by_unit}
    known = {unit: _load(paths[unit], pixels.variants.count) for unit in by_unit}
    missing = {unit: [d for name, d in wanted.items() if name not in known[unit]] for unit, wanted in by_unit.items()}
    total = sum(map(len, missing.values())) * pixels.variants.count
    if total:
        encoder.eval().to(device)
        with Progress(label, total, unit="clip") as progress:
            for unit, its_draws in missing.items():
                if its_draws:
                    known[unit] |= _computed(encoder, pixels, its_draws, batch, device, progress)
                    _save(paths[unit], known[unit])
    features_ND = np.concatenate([known[draw.window.clip.unit][draw_name(draw)] for draw in draws])
    targets_NJ = np.array([target for draw in draws for target in pixels.variants.targets(draw.window)], np.float32)
    return FeatureTable(features_ND, targets_NJ, tuple(draws))


def draw_name(draw: Draw) -> str:
    """Return the name of a draw's samples: window, its frames and the number of the draw."""
    step = draw.window.indices[1] - draw.window.indices[0] if len(draw.window.indices) > 1 else 0
    return f"{draw.window.id}+{step}#{draw.number}"


def features_digest(encoder: nn.Module, pixels: ClipPixels) -> str:
    """Return the sha256 of all that decides features: weights, dataset version, and what is made of a window."""
    units = pixels.reader.version.units
    facts = {
        "revision": _REVISION,
        "weights": state_digest(encoder.state_dict()),
        "variants": pixels.variants.name,
        "seed": pixels.seed if pixels.variants.count > 1 else None,
        "image_size": pixels.image_size,
        "units": dict(zip(units.column("unit"), units.column("tar_sha256"), strict=True)),
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


def _computed(
    encoder: nn.Module, pixels: ClipPixels, draws: Sequence[Draw], batch: int, device: torch.device, progress: Progress
) -> dict[str, np.ndarray]:
    """Features of each draw's samples, float32 (samples, D) by name."""
    rows: list[np.ndarray] = []
    waiting: list[Sample] = []
    for samples in pixels.iter_samples(draws):
        waiting += samples
        while len(waiting) >= batch:
            rows.append(_forward(encoder, waiting[:batch], device))
            waiting = waiting[batch:]
            progress.update(batch)
    if waiting:
        rows.append(_forward(encoder, waiting, device))
        progress.update(len(waiting))
    features_ND, per = np.concatenate(rows), pixels.variants.count
    return {draw_name(draw): features_ND[i * per : (i + 1) * per] for i, draw in enumerate(draws)}


def _forward(encoder: nn.Module, samples: Sequence[Sample], device: torch.device) -> np.ndarray:
    clip_BTHWC = torch.from_numpy(np.stack([s.frames_THWC for s in samples])).to(device)
    with torch.inference_mode():
        features_BD: np.ndarray = encoder(clip_BTHWC).float().cpu().numpy()
    return features_BD


def _load(path: Path, per_draw: int) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            features_ND, names = arrays["features"], arrays["names"].tolist()
    except UNREADABLE as error:
        _log.warning("cached features %s cannot be read (%s); computing them again", path, error)
        return {}
    if features_ND.ndim != 2 or len(features_ND) != len(names) * per_draw:
        _log.warning(
            "cached features %s have shape %s for %d draws; computing again", path, features_ND.shape, len(names)
        )
        return {}
    return {str(name): features_ND[i * per_draw : (i + 1) * per_draw] for i, name in enumerate(names)}


def _save(path: Path, known: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")  # machines that share the cache may have equal pids
    try:
        with temporary.open("wb") as file:
            np.savez(file, features=np.concatenate(list(known.values())), names=np.array(list(known)))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
