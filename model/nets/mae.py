"""The masked autoencoder: the generator of pretraining.

Shapes: B clips, C = 3, T frames, H × W pixels, L tokens = V visible + M masked, P numbers in a patch, D width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from model.nets.config import ModelConfig
from model.nets.decoder import Decoder
from model.nets.encoder import Encoder
from model.nets.patch_embed import take_tokens, to_unit_range, token_indices


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

    def forward(self, clip_BCTHW: Tensor, is_masked_BL: Tensor, is_target_BL: Tensor | None = None) -> Prediction:
        """Predict the hidden patches.

        Args:
            clip_BCTHW: uint8, or floating point in [0, 1].
            is_masked_BL: bool, True = hidden; the same number in every clip.
            is_target_BL: bool, the hidden tokens to predict (``model.masking.decoder_targets``); the same number in
                every clip. None predicts all of them.

        Raises:
            ValueError: clips of another size than the network's.
        """
        visible_BV = token_indices(~is_masked_BL)
        target_BM = token_indices(is_masked_BL if is_target_BL is None else is_target_BL)
        patches_BLP = self.encoder.patches(clip_BCTHW)
        visible_BVD = self.encoder.encode_visible(patches_BLP, visible_BV)
        pred_BMP = self.decoder(self.enc_dec_proj(visible_BVD), visible_BV, target_BM)
        # the target in fp32: bf16 would round what is to be predicted
        return Prediction(pred_BMP, to_unit_range(take_tokens(patches_BLP, target_BM)))
