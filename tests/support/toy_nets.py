"""Networks of a few hundred parameters with the generator's and the discriminator's signatures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.data.batch import ClipBatch
from model.nets.patch_embed import SinCosPositions


class ToyGenerator(nn.Module):
    """Predicts hidden values of a 12-number clip from visible ones; (clip, mask) → (pred_BMP, target_BMP)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 12))
        self.positions = SinCosPositions(8, 4)  # unused: an engine must leave it as it is

    def forward(self, clip_BCTHW: Tensor, is_masked_BL: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return predictions and targets of the hidden half, (B, 1, P)."""
        values = clip_BCTHW.flatten(1).to(self.body[0].weight.dtype) / 255
        prediction = self.body(values * ~is_masked_BL)
        hidden = values.shape[1] // 2
        return (
            prediction[is_masked_BL].reshape(-1, 1, hidden),
            values[is_masked_BL].reshape(-1, 1, hidden),
        )


class ToyDiscriminator(nn.Module):
    """One score per hidden patch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.01), nn.Linear(16, 1))

    def forward(self, patches_BMP: Tensor) -> Tensor:
        """Return scores (B, M, 1)."""
        return self.body(patches_BMP)


def toy_nets(seed: int = 0) -> tuple[ToyGenerator, ToyDiscriminator]:
    """The same weights for the same seed."""
    torch.manual_seed(seed)
    return ToyGenerator(), ToyDiscriminator()


def toy_batch(step: int, clips: int = 4) -> ClipBatch:
    """The global batch of a step, the same on every rank."""
    draw = torch.Generator().manual_seed(1000 + step)
    clip_BTHWC = torch.randint(0, 256, (clips, 1, 2, 2, 3), dtype=torch.uint8, generator=draw)
    is_masked_BL = torch.zeros(clips, 12, dtype=torch.bool)
    for row in is_masked_BL:
        row[torch.randperm(12, generator=draw)[:6]] = True
    return ClipBatch(clip_BTHWC, is_masked_BL, tuple(f"{step}-{i}" for i in range(clips)))
