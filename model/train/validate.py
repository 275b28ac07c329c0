"""Reconstruction on clips that are not trained on, always the same windows and masks, shared out over the ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from model.data.batch import ClipSample, collate
from model.data.source import ClipSource
from model.losses import reconstruction_loss
from model.reconstruct import draw_reconstructions, reconstruct_clip
from model.train.engines import Engines
from model.train.run_folder import PICTURES
from model.train.step import forward_generator

logger = logging.getLogger(__name__)

SHOWN_CLIPS = 3
"""Clips of a picture."""


@dataclass(frozen=True)
class Validation:
    """Measures the loss on the first ``clips`` positions of ``source`` and leaves a picture of the first few.

    ``source`` None (no validation clips) measures nothing and draws clips of ``shown``, the training source.
    """

    engines: Engines
    source: ClipSource | None
    shown: ClipSource
    clips: int
    micro_batch: int
    run_dir: Path

    def __call__(self, step: int) -> dict[str, float]:
        """Return ``{"loss/val_reconstruction": …}``, the mean over clips, equal on all ranks. Collective."""
        if dist.get_rank() == 0:
            self._draw(step)
        if self.source is None:
            return {}
        mine = range(dist.get_rank(), min(self.clips, self.source.clips), dist.get_world_size())
        total = torch.zeros(2, dtype=torch.float64)  # sum of losses, clips
        for first in range(0, len(mine), self.micro_batch):
            samples = [self.source.load(position) for position in mine[first : first + self.micro_batch]]
            total += torch.tensor([self._loss(samples) * len(samples), len(samples)], dtype=torch.float64)
        total = total.to(self.engines.device)
        dist.all_reduce(total)
        return {"loss/val_reconstruction": float(total[0] / total[1])}

    def _loss(self, samples: Sequence[ClipSample]) -> float:
        with torch.no_grad():
            batch = collate(samples).to(self.engines.device)
            pred_BMP, target_BMP = forward_generator(self.engines.generator.module, batch)
            return float(reconstruction_loss(pred_BMP, target_BMP))

    def _draw(self, step: int) -> None:
        source = self.source or self.shown
        samples = [source.load(position) for position in range(min(SHOWN_CLIPS, source.clips))]
        network = self.engines.generator.module
        png = draw_reconstructions(
            [reconstruct_clip(network, sample.clip_THWC, sample.is_masked_L) for sample in samples]
        )
        folder = self.run_dir / PICTURES
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step:06d}.png").write_bytes(png)
