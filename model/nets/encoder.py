"""The encoder: what is kept, exported and adapted.

Shapes: B clips, L tokens, V visible tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.nets.blocks import Block, init_linear, run_blocks
from model.nets.config import ModelConfig
from model.nets.patch_embed import PatchEmbedding, SinCosPositions, patchify, select_tokens, to_unit_range


class Encoder(nn.Module):
    """ViT over tubelets; attends over the tokens it is given, visible ones or all."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.config = cfg
        self.patch_embedding = PatchEmbedding(cfg.encoder_dim, cfg.tubelet, cfg.patch_size)
        self.pos_embedding = SinCosPositions(cfg.tokens, cfg.encoder_dim)
        self.blocks = nn.ModuleList(
            Block(cfg.encoder_dim, cfg.encoder_heads, cfg.mlp_ratio) for _ in range(cfg.encoder_depth)
        )
        self.norm = nn.LayerNorm(cfg.encoder_dim)
        init_linear(self.blocks)

    def encode_patches(self, patches_BLP: Tensor, is_masked_BL: Tensor | None = None) -> Tensor:
        """Return normalised tokens of patches: (B, V, D) of the visible ones, or (B, L, D) without a mask."""
        dtype = self.patch_embedding.projection.weight.dtype
        positions_BLD = self.pos_embedding.emb.to(dtype).expand(len(patches_BLP), -1, -1)
        if is_masked_BL is not None:
            patches_BLP = select_tokens(patches_BLP, ~is_masked_BL)
            positions_BLD = select_tokens(positions_BLD, ~is_masked_BL)
        return self.norm(self._blocks(self.patch_embedding(patches_BLP.to(dtype)) + positions_BLD))

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return token features (B, L, D): every token through the encoder, then LayerNorm of each.

        ``clip_BCTHW`` is uint8, or floating point in [0, 1].
        """
        return self.norm(self._all_tokens(clip_BCTHW))

    def pooled(self, clip_BCTHW: Tensor) -> Tensor:
        """Return one feature a clip (B, D): the mean over tokens *first*, then LayerNorm (METHOD, section 4)."""
        return self.norm(self._all_tokens(clip_BCTHW).mean(dim=1))

    def _all_tokens(self, clip_BCTHW: Tensor) -> Tensor:
        weight = self.patch_embedding.projection.weight
        patches_BLP = patchify(to_unit_range(clip_BCTHW, weight.dtype), self.config.tubelet, self.config.patch_size)
        return self._blocks(self.patch_embedding(patches_BLP) + self.pos_embedding.emb.to(weight.dtype))

    def _blocks(self, tokens_BND: Tensor) -> Tensor:
        return run_blocks(self.blocks, tokens_BND, self.config.activation_checkpointing)
