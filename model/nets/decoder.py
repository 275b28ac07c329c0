"""The decoder: visible tokens and mask tokens in, pixels of the hidden patches out.

Shapes: B clips, N tokens = V visible + M predicted, P numbers in a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.nets.blocks import Block, init_linear, run_blocks
from model.nets.config import ModelConfig
from model.nets.patch_embed import SinCosPositions, take_tokens


class Decoder(nn.Module):
    """A shallow ViT over [visible tokens + their positions ; mask token + hidden positions]."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self._checkpointing = cfg.activation_checkpointing
        self.mask_token = nn.Parameter(torch.zeros(1, 1, cfg.decoder_dim))
        self.pos_embedding = SinCosPositions(cfg.tokens, cfg.decoder_dim)
        self.blocks = nn.ModuleList(
            Block(cfg.decoder_dim, cfg.decoder_heads, cfg.mlp_ratio) for _ in range(cfg.decoder_depth)
        )
        self.norm = nn.LayerNorm(cfg.decoder_dim)
        self.head = nn.Linear(cfg.decoder_dim, cfg.patch_values)
        init_linear(self)
        # cut off at one std, as marlin-pytorch and VideoMAE do: what is left has a std of 0.0108
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, visible_BVD: Tensor, visible_BV: Tensor, target_BM: Tensor) -> Tensor:
        """Return predictions (B, M, P) of the patches that ``target_BM`` (indices) names, in that order.

        ``visible_BV``: indices of the visible tokens. Tokens that are in neither get no mask token.
        """
        positions_1LD = self.pos_embedding.emb.to(visible_BVD.dtype)
        hidden_BMD = self.mask_token + take_tokens(positions_1LD, target_BM)
        x_BND = torch.cat([visible_BVD + take_tokens(positions_1LD, visible_BV), hidden_BMD], dim=1)
        x_BND = run_blocks(self.blocks, x_BND, self._checkpointing)
        return self.head(self.norm(x_BND[:, visible_BVD.shape[1] :]))
