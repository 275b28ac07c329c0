"""Arithmetic of the networks, counted from their shapes: what achieved FLOP/s are measured in and MFU is a share of.

A multiply-add counts two. Only matrix products count, and only those of the mathematics (the MFU of PaLM,
arXiv:2204.02311, appendix B): nothing element-wise, and nothing that is computed twice to save memory, as fused
attention does with its scores in the backward pass and activation checkpointing with whole blocks.
"""

from __future__ import annotations

from model.nets.config import ModelConfig


def encoder_flops(cfg: ModelConfig, tokens: int) -> int:
    """Return the arithmetic of one clip's forward pass through the encoder, of which it sees ``tokens``."""
    return _embedding(cfg, tokens) + cfg.encoder_depth * _block(tokens, cfg.encoder_dim, cfg.mlp_ratio)


def decoder_flops(cfg: ModelConfig, visible: int, predicted: int) -> int:
    """Return the same of projection and decoder, over ``visible`` tokens and ``predicted`` mask tokens."""
    blocks = cfg.decoder_depth * _block(visible + predicted, cfg.decoder_dim, cfg.mlp_ratio)
    projection = 2 * visible * cfg.encoder_dim * cfg.decoder_dim
    return projection + blocks + 2 * predicted * cfg.decoder_dim * cfg.patch_values


def step_flops(
    cfg: ModelConfig, visible: int, predicted: int, *, adversarial: bool = True, d_steps: int = 1, g_steps: int = 1
) -> int:
    """Return the arithmetic of one clip in a training step: ``d_steps`` updates of D, then ``g_steps`` of G.

    A backward pass takes twice the forward's, less the gradients that nobody needs: of pixels, of the discriminator's
    inputs in its own step, and of its weights in the generator's.
    """
    forward = encoder_flops(cfg, visible) + decoder_flops(cfg, visible, predicted)
    generator = g_steps * (3 * forward - _embedding(cfg, visible))
    if not adversarial:
        return generator
    wide = 4 * cfg.decoder_dim
    hidden, score = 2 * predicted * cfg.patch_values * wide, 2 * predicted * wide
    own_steps = d_steps * 2 * (2 * hidden + 3 * score)  # fakes and reals
    return generator + own_steps + g_steps * 2 * (hidden + score)


def _embedding(cfg: ModelConfig, tokens: int) -> int:
    return 2 * tokens * cfg.patch_values * cfg.encoder_dim


def _block(tokens: int, dim: int, mlp_ratio: int) -> int:
    """qkv, output projection and MLP; then scores and weighted values."""
    return 2 * tokens * dim * dim * (4 + 2 * mlp_ratio) + 4 * tokens * tokens * dim
