"""The decoder: visible tokens and mask tokens in, pixels of the hidden patches out.

Shapes: B clips, L tokens = V visible + M masked, P numbers in a patch, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.nets.blocks import Block, init_linear, run_blocks
from model.nets.config import ModelConfig
from model.nets.patch_embed import SinCosPositions, select_tokens


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
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, visible_BVD: Tensor, is_masked_BL: Tensor, is_target_BL: Tensor | None = None) -> Tensor:
        """Return predictions (B, M, P) of the hidden patches, in token order.

        ``is_target_BL``: the hidden tokens to predict; the others get no mask token. None predicts all of them.
        """
        is_target_BL = is_masked_BL if is_target_BL is None else is_target_BL
        positions_BLD = self.pos_embedding.emb.to(visible_BVD.dtype).expand(len(visible_BVD), -1, -1)
        hidden_BMD = self.mask_token + select_tokens(positions_BLD, is_target_BL)
        x_BLD = torch.cat([visible_BVD + select_tokens(positions_BLD, ~is_masked_BL), hidden_BMD], dim=1)
        x_BLD = run_blocks(self.blocks, x_BLD, self._checkpointing)
        return self.head(self.norm(x_BLD[:, visible_BVD.shape[1] :]))
