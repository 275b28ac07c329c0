"""Encoder and head as one module: clips in, one logit a clip out."""

from __future__ import annotations

from torch import Tensor, nn


class Detector(nn.Module):
    """A binary detector.

    Args:
        encoder: maps uint8 clips (B, T, H, W, 3) to pooled features float (B, D); see ``model.adapt.encoder``.
        head: Linear D → 1, as the linear probe gives it.
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Return logits of "fake", float (B,)."""
        logit_B: Tensor = self.head(self.encoder(clip_BTHWC))[:, 0]
        return logit_B
