"""Loss and features of clips that are not trained on: the same windows and masks each time, shared by the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.data.batch import ClipBatch, collate
from model.data.source import ClipSource
from model.losses import reconstruction_loss
from model.reconstruct import draw_reconstructions, reconstruct_clip
from model.train.engines import Engines
from model.train.probe import probe_features
from model.train.run_folder import PICTURES
from model.train.step import forward_generator

VAL_LOSS = "loss/val_reconstruction"
SHOWN_CLIPS = 3
"""Clips of a picture."""
VIDEO_DIGITS = 16
"""Digits at the head of a clip's key that name its video (docs/architecture.md)."""


@dataclass(frozen=True)
class Validation:
    """Looks at the first positions of ``source``, the validation clips; without one it measures nothing.

    Args:
        engines: both engines.
        source: validation clips, or None.
        shown: the training source, of which pictures are drawn where there is no validation.
        clips: most clips whose loss is measured.
        probed: most clips whose features are.
        micro_batch: clips per forward.
        run_dir: run folder; pictures go there.
    """

    engines: Engines
    source: ClipSource | None
    shown: ClipSource
    clips: int
    probed: int
    micro_batch: int
    run_dir: Path

    def measure(self) -> dict[str, float]:
        """Return the mean loss over clips, and what ``probe_features`` says; equal on all ranks. Collective."""
        if self.source is None:
            return {}
        return {VAL_LOSS: self._loss(self.source)} | self._probe(self.source)

    def draw(self, step: int) -> None:
        """Leave a picture of a few reconstructed clips. Rank 0 alone."""
        if dist.get_rank() != 0:
            return
        source = self.source or self.shown
        samples = [source.load(position) for position in range(min(SHOWN_CLIPS, source.clips))]
        network = self.engines.generator.module
        png = draw_reconstructions(
            [reconstruct_clip(network, sample.clip_THWC, sample.is_masked_L) for sample in samples]
        )
        folder = self.run_dir / PICTURES
        folder.mkdir(exist_ok=True)
        (folder / f"step-{step:06d}.png").write_bytes(png)

    @torch.no_grad()
    def _loss(self, source: ClipSource) -> float:
        total = torch.zeros(2, dtype=torch.float64, device=self.engines.device)  # sum of losses, clips
        for batch in self._mine(source, self.clips):
            pred_BMP, target_BMP = forward_generator(self.engines.generator.module, batch)
            loss = float(reconstruction_loss(pred_BMP, target_BMP))
            total += torch.tensor([loss * len(batch.keys), len(batch.keys)], dtype=torch.float64).to(total.device)
        dist.all_reduce(total)
        return float(total[0] / total[1])

    @torch.no_grad()
    def _probe(self, source: ClipSource) -> dict[str, float]:
        mine: list[tuple[str, Tensor]] = []
        for batch in self._mine(source, self.probed):
            features_BD = self.engines.generator.module.encoder.pooled(batch.clip_BTHWC.permute(0, 4, 1, 2, 3))
            mine += zip((key[:VIDEO_DIGITS] for key in batch.keys), features_BD.float().cpu(), strict=True)
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
        found = [row for rank in gathered for row in rank]
        if len(found) < 2:
            return {}
        return probe_features(torch.stack([feature_D for _, feature_D in found]), [video for video, _ in found])

    def _mine(self, source: ClipSource, clips: int) -> Iterator[ClipBatch]:
        """This rank's share of the first ``clips`` positions, in micro-batches."""
        mine = range(dist.get_rank(), min(clips, source.clips), dist.get_world_size())
        for first in range(0, len(mine), self.micro_batch):
            samples = [source.load(position) for position in mine[first : first + self.micro_batch]]
            yield collate(samples).to(self.engines.device)
