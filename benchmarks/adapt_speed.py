"""Two ratios of adaptation, each side measured in turn in one run: ``python -m benchmarks.adapt_speed DATASET``.

1. Epochs per second of the linear probe on cached features over those of a probe that computes its features in every
   epoch (read, decode, encoder, head): at least 20.
2. A fine-tuning step (encoder and head, Adam) through marlin-pytorch's encoder over the same step through ours, the
   same weights, clips and batch: at least 1.5.

Load averages are printed beside the ratios: other work on the machine disturbs both sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import marlin_pytorch
import numpy as np
import torch
from marlin_pytorch.config import resolve_config
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from model.adapt.classifier import Classifier
from model.adapt.encoder import random_encoder
from model.adapt.examples import list_clips
from model.adapt.features import compute_features
from model.adapt.pixels import ClipPixels
from model.adapt.probe import train_probe
from model.adapt.samples import choose_windows, draws_of
from model.adapt.tasks import deepfake
from model.adapt.variants import SelfBlended
from model.adapt_config import ProbeConfig
from model.nets.config import model_config
from pipeline.dataset.reader import open_dataset

EPOCHS = 200
SHAPE = (
    "img_size", "patch_size", "n_frames", "encoder_embed_dim", "encoder_depth", "encoder_num_heads",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "mlp_ratio", "qkv_bias", "qk_scale", "drop_rate",
    "attn_drop_rate", "norm_layer", "init_values", "tubelet_size",
)  # fmt: skip


class Theirs(nn.Module):
    """marlin-pytorch's encoder as a user fine-tunes it: float clips in [0, 1], pooled features, a head."""

    def __init__(self, name: str) -> None:
        super().__init__()
        config = resolve_config(f"{name}_ytf")
        self.marlin = marlin_pytorch.Marlin(**{key: getattr(config, key) for key in SHAPE}, as_feature_extractor=True)
        self.head = nn.Linear(config.encoder_embed_dim, 1)

    def forward(self, clip_BTHWC: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 1)."""
        clip_BCTHW = clip_BTHWC.permute(0, 4, 1, 2, 3).float() / 255
        logits: torch.Tensor = self.head(self.marlin.extract_features(clip_BCTHW, keep_seq=False))
        return logits


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--model", default="marlin_vit_small")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()}")
    probe_ratio(chosen.dataset, chosen.model, chosen.windows)
    step_ratio(chosen.model, chosen.rounds)


def probe_ratio(dataset: str, name: str, windows: int) -> None:
    """Compare a probe's epoch with and without cached features; the ratio only grows with the number of windows."""
    config = model_config(name)
    reader = open_dataset(dataset)
    clips = [clip.row for clip in list_clips(reader)]
    draws = draws_of(choose_windows(clips, 1, windows))
    pixels = ClipPixels(reader, SelfBlended(), config.image_size, 0)
    encoder = random_encoder(config, 0)
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = compute_features(
            encoder, pixels, draws, batch=4, device=torch.device("cpu"), cache=Path(folder), label="features"
        )
        once = time.perf_counter() - start
    half = len(table.targets_NJ) // 2
    x, y = table.features_ND, table.targets_NJ
    start = time.perf_counter()
    train_probe(deepfake(), x[:half], y[:half], x[half:], y[half:], ProbeConfig(epochs=EPOCHS), show=False)
    epoch = (time.perf_counter() - start) / EPOCHS
    print(
        f"linear probe, {name}, {len(x)} samples: {1 / epoch:.0f} epochs/s cached, "
        f"{1 / (once + epoch):.3f} recomputing: × {(once + epoch) / epoch:.0f} (load {os.getloadavg()[0]:.1f})"
    )


def step_ratio(name: str, rounds: int) -> None:
    """Compare fine-tuning steps in turn; medians."""
    torch.manual_seed(0)
    config = model_config(name)
    clip_BTHWC = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (2, 16, 224, 224, 3), dtype=np.uint8))
    labels_B1 = torch.tensor([[0.0], [1.0]])
    theirs, ours = Theirs(name), Classifier(random_encoder(config, 0), nn.Linear(config.encoder_dim, 1))
    ours.encoder.encoder.load_state_dict(theirs.marlin.encoder.state_dict())  # type: ignore[union-attr,operator]
    ours.head.load_state_dict(theirs.head.state_dict())
    steps = [stepper(theirs, clip_BTHWC, labels_B1), stepper(ours, clip_BTHWC, labels_B1, fused=True)]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for side, step in enumerate(steps):
            start = time.perf_counter()
            step()
            seconds[side].append(time.perf_counter() - start)
    their_s, our_s = (statistics.median(side[1:]) for side in seconds)
    ratios = [a / b for a, b in zip(seconds[0][1:], seconds[1][1:], strict=True)]
    print(
        f"fine-tuning step, {name}, 2 clips: theirs {their_s:.2f} s, ours {our_s:.2f} s: "
        f"× {statistics.median(ratios):.2f} (load {os.getloadavg()[0]:.1f})"
    )


def stepper(
    network: nn.Module, clip_BTHWC: torch.Tensor, labels_B1: torch.Tensor, fused: bool | None = None
) -> Callable[[], None]:
    """Return one step of Adam, fused as our engine has it or as torch chooses."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.5, 0.9), fused=fused)
    network.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        binary_cross_entropy_with_logits(network(clip_BTHWC), labels_B1).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
