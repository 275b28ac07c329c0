"""The encoder: what is kept, exported and adapted.

Shapes: B clips, L tokens, V visible tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.nets.blocks import Block, init_linear, run_blocks
from model.nets.config import ModelConfig
from model.nets.patch_embed import PatchEmbedding, SinCosPositions, patchify, take_tokens, to_unit_range


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

    def patches(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the clip's patches (B, L, P), still uint8 where the clip is: selecting them moves a quarter.

        Raises:
            ValueError: a clip of another size, whose tokens would get the wrong positions.
        """
        cfg = self.config
        wanted = (3, cfg.frames, cfg.image_size, cfg.image_size)
        if clip_BCTHW.ndim != 5 or tuple(clip_BCTHW.shape[1:]) != wanted:
            raise ValueError(
                f"clips are {tuple(clip_BCTHW.shape)}; the network takes (B, {', '.join(map(str, wanted))})"
            )
        return patchify(clip_BCTHW, cfg.tubelet, cfg.patch_size)

    def encode_visible(self, patches_BLP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return normalised tokens (B, V, D) of the patches that ``visible_BV`` (indices) names.

        ``patches_BLP`` is uint8, or floating point in [0, 1].
        """
        dtype = self.patch_embedding.projection.weight.dtype
        patches_BVP = to_unit_range(take_tokens(patches_BLP, visible_BV), dtype)
        positions_BVD = take_tokens(self.pos_embedding.emb.to(dtype), visible_BV)
        return self.norm(self._blocks(self.patch_embedding(patches_BVP) + positions_BVD))

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return token features (B, L, D): every token through the encoder, then LayerNorm of each.

        ``clip_BCTHW`` is uint8, or floating point in [0, 1]; errors as ``patches``.
        """
        return self.norm(self._all_tokens(clip_BCTHW))

    def pooled(self, clip_BCTHW: Tensor) -> Tensor:
        """Return one feature a clip (B, D): the mean over tokens *first*, then LayerNorm (as in the released code)."""
        return self.norm(self._all_tokens(clip_BCTHW).mean(dim=1))

    def _all_tokens(self, clip_BCTHW: Tensor) -> Tensor:
        weight = self.patch_embedding.projection.weight
        patches_BLP = to_unit_range(self.patches(clip_BCTHW), weight.dtype)
        return self._blocks(self.patch_embedding(patches_BLP) + self.pos_embedding.emb.to(weight.dtype))

    def _blocks(self, tokens_BND: Tensor) -> Tensor:
        return run_blocks(self.blocks, tokens_BND, self.config.activation_checkpointing)
