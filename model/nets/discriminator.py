"""The discriminator: one score for each hidden patch, as in the released code."""

from __future__ import annotations

from torch import Tensor, nn

from model.nets.blocks import Mlp
from model.nets.config import ModelConfig


class Discriminator(Mlp):
    """MLP P → 4 · decoder width → 1 with LeakyReLU(0.01); a Wasserstein critic, so its score has no bounds."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg.patch_values, 4 * cfg.decoder_dim, 1, nn.LeakyReLU(0.01))

    def forward(self, patches_BMP: Tensor) -> Tensor:
        """Return scores (B, M)."""
        return super().forward(patches_BMP).squeeze(-1)
