"""The reference's work, from ``marlin-pytorch``'s own modules in the released training order."""

from __future__ import annotations

import marlin_pytorch
import torch
from einops import rearrange
from marlin_pytorch.config import resolve_config
from marlin_pytorch.model.modules import MLP
from torch import Tensor, nn

from model.nets.config import ModelConfig

_SHAPE = (
    "img_size", "patch_size", "n_frames", "encoder_embed_dim", "encoder_depth", "encoder_num_heads",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "mlp_ratio", "qkv_bias", "qk_scale", "drop_rate",
    "attn_drop_rate", "norm_layer", "init_values", "tubelet_size",
)  # fmt: skip


def reference_network(name: str) -> marlin_pytorch.Marlin:
    """Return marlin-pytorch's network of one of our sizes, with its decoder and random weights."""
    config = resolve_config(f"{name}_ytf")
    return marlin_pytorch.Marlin(**{key: getattr(config, key) for key in _SHAPE}, as_feature_extractor=False)


class ReferenceStep:
    """One step in the released order: the generator runs forward and backward twice, once for nothing.

    In the discriminator's step the prediction is not detached, so the whole generator is differentiated and the
    gradient thrown away. Clips come as floats in [0, 1].
    """

    def __init__(self, cfg: ModelConfig, device: str = "cpu") -> None:
        self._generator = reference_network(cfg.name).to(device)
        self._discriminator = MLP([cfg.patch_values, 4 * cfg.decoder_dim, 1], build_activation=nn.LeakyReLU).to(device)
        self._g_optimizer, self._d_optimizer = (
            torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
            for network in (self._generator, self._discriminator)
        )
        self._cut = {"p0": cfg.tubelet, "p1": cfg.patch_size, "p2": cfg.patch_size}

    def __call__(self, clip_BCTHW: Tensor, is_masked_BL: Tensor) -> float:
        """Update both networks; return the reconstruction loss."""
        patches_BLP = rearrange(clip_BCTHW, "b c (t p0) (h p1) (w p2) -> b (t h w) (c p0 p1 p2)", **self._cut)
        real_BMP = patches_BLP[is_masked_BL].view(len(clip_BCTHW), -1, patches_BLP.shape[-1])
        self._d_optimizer.zero_grad()
        fake_BMP = self._generator(clip_BCTHW, ~is_masked_BL)
        (self._discriminator(fake_BMP).mean() - self._discriminator(real_BMP).mean()).backward()
        self._d_optimizer.step()

        self._g_optimizer.zero_grad()
        fake_BMP = self._generator(clip_BCTHW, ~is_masked_BL)
        reconstruction = nn.functional.mse_loss(fake_BMP, real_BMP)
        (reconstruction - 0.01 * self._discriminator(fake_BMP).mean()).backward()
        self._g_optimizer.step()
        return float(reconstruction.detach())
