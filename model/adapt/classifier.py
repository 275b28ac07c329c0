"""Encoder and head as one module: clips in, logits out."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """What adaptation trains.

    Args:
        encoder: maps uint8 clips (B, T, H, W, 3) to pooled features float (B, D); see ``model.adapt.encoder``.
        head: Linear D → K, as the linear probe gives it.
    """

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits_BK: Tensor = self.head(self.encoder(clip_BTHWC))
        return logits_BK
