"""Pictures of training: loss curves, and what each mask strategy hides of a clip."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch

from model.masking import STRATEGIES, make_mask
from model.nets.config import model_config
from model.train.sources import open_source
from model.train_config import PretrainConfig
from pipeline.dataset.reader import open_dataset

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LABEL_WIDTH = 150
TILE = 112
CURVES = {
    "loss/reconstruction": "reconstruction (training)",
    "loss/val_reconstruction": "reconstruction (validation)",
    "loss/adversarial_g": "adversarial, generator",
    "loss/discriminator": "discriminator",
}


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a PNG: reconstruction losses on the left (log scale), adversarial losses on the right, over steps."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for key, label in CURVES.items():
        points = [(row["step"], row[key]) for row in metrics if key in row]
        if points:
            axis = axes[0] if "reconstruction" in key else axes[1]
            marker = "o" if len(points) < 30 else ""
            axis.plot(*zip(*points, strict=True), label=label, linewidth=1.6, marker=marker, markersize=3)
    axes[0].set_yscale("log")
    for axis, title in zip(axes, ("mean squared error on hidden patches", "adversarial losses"), strict=True):
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def mask_overlays(cfg: PretrainConfig, dataset: str, version: int) -> bytes:
    """Return a PNG: one row a strategy, the first clip of the training order with its hidden patches darkened."""
    reader = open_dataset(dataset, version)
    shape = model_config(cfg.model.name, **cfg.model.overrides)
    sample = open_source(cfg, reader, cfg.data.split).load(0)
    bits_BThw = torch.from_numpy(sample.regions_Thw.astype(np.int64))[None]
    frames_THWC = sample.clip_THWC.numpy()[:: shape.tubelet]
    rows = []
    for strategy in STRATEGIES:
        is_masked_BL = make_mask(strategy, bits_BThw, shape.grid, cfg.mask.ratio, torch.tensor([cfg.seed]))
        is_masked_Thw = is_masked_BL[0].reshape(*shape.grid).numpy()
        label = np.full((TILE, LABEL_WIDTH, 3), 255, np.uint8)
        cv2.putText(label, strategy, (4, TILE // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
        tiles = [_darkened(frame, hidden) for frame, hidden in zip(frames_THWC, is_masked_Thw, strict=True)]
        rows.append(np.concatenate([label, *tiles], axis=1))
    picture = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", picture)[1].tobytes()


def _darkened(frame_HWC: np.ndarray, is_masked_hw: np.ndarray) -> np.ndarray:
    frame_HWC = cv2.resize(frame_HWC, (TILE, TILE), interpolation=cv2.INTER_AREA)
    hidden_HW = cv2.resize(is_masked_hw.astype(np.uint8), (TILE, TILE), interpolation=cv2.INTER_NEAREST)
    shade = np.where(hidden_HW[..., None] > 0, 0.22, 1.0)
    return (frame_HWC * shade).astype(np.uint8)
