"""The masked autoencoder: the generator of pretraining.

Shapes: B clips, C = 3, T frames, H × W pixels, L tokens = V visible + M masked, P numbers in a patch, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.nets.config import ModelConfig
from model.nets.decoder import Decoder
from model.nets.encoder import Encoder
from model.nets.patch_embed import patchify, select_tokens, to_unit_range, unpatchify


class Prediction(NamedTuple):
    """pred_BMP: predicted pixels of the hidden patches, in token order; target_BMP: the true ones, in [0, 1]."""

    pred_BMP: Tensor
    target_BMP: Tensor


class MaskedAutoencoder(nn.Module):
    """Encoder over visible tokens, a bias-free projection, decoder over all; pixels of the hidden patches out."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.config = cfg
        self.encoder = Encoder(cfg)
        self.enc_dec_proj = nn.Linear(cfg.encoder_dim, cfg.decoder_dim, bias=False)
        self.decoder = Decoder(cfg)

    def patches(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the clip's patches (B, L, P) in [0, 1], in fp32: bf16 would round the pixels that are the target."""
        return patchify(to_unit_range(clip_BCTHW), self.config.tubelet, self.config.patch_size)

    def forward_encoder(self, patches_BLP: Tensor, is_masked_BL: Tensor) -> Tensor:
        """Return visible tokens (B, V, D)."""
        return self.encoder.encode_patches(patches_BLP, is_masked_BL)

    def forward_decoder(self, visible_BVD: Tensor, is_masked_BL: Tensor, is_target_BL: Tensor | None = None) -> Tensor:
        """Return predictions (B, M, P) of the hidden patches, or of those that are targets."""
        return self.decoder(self.enc_dec_proj(visible_BVD), is_masked_BL, is_target_BL)

    def forward(self, clip_BCTHW: Tensor, is_masked_BL: Tensor, is_target_BL: Tensor | None = None) -> Prediction:
        """Predict the hidden patches.

        Args:
            clip_BCTHW: uint8, or floating point in [0, 1].
            is_masked_BL: bool, True = hidden; the same number in every clip.
            is_target_BL: bool, the hidden tokens to predict (``model.masking.decoder_targets``); the same number in
                every clip. None predicts all of them.
        """
        patches_BLP = self.patches(clip_BCTHW)
        pred_BMP = self.forward_decoder(self.forward_encoder(patches_BLP, is_masked_BL), is_masked_BL, is_target_BL)
        return Prediction(pred_BMP, select_tokens(patches_BLP, is_masked_BL if is_target_BL is None else is_target_BL))

    @torch.no_grad()
    def reconstruct(self, clip_BCTHW: Tensor, is_masked_BL: Tensor) -> Tensor:
        """Return the clip (B, 3, T, H, W) with its hidden patches as predicted and its visible ones as they are."""
        patches_BLP = self.patches(clip_BCTHW)
        pred_BMP = self.forward_decoder(self.forward_encoder(patches_BLP, is_masked_BL), is_masked_BL)
        patches_BLP = patches_BLP.masked_scatter(is_masked_BL[..., None], pred_BMP.to(patches_BLP.dtype))
        return unpatchify(patches_BLP, self.config.grid, self.config.tubelet, self.config.patch_size)
