"""Loss curves of a pretraining, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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
