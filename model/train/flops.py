"""How much arithmetic a clip costs, counted from the network's shape, and how much a device can do.

Counted are the matrix products of the training step's mathematics, two FLOPs a multiply-add (what "model FLOPs" means
since PaLM, Chowdhery et al. 2022, appendix B). Not counted: what a setting repeats to save memory (activation
checkpointing, the second forward of gradient accumulation), the gradient penalty, and what is no matrix product.
"""

from __future__ import annotations

import time

import torch

from model.masking import visible_tokens
from model.nets.config import ModelConfig
from model.train_config import AdversarialConfig

PEAK_SECONDS = 0.3
"""How long the matrix product is repeated that measures a device; the fastest repetition counts."""


def clip_flops(shape: ModelConfig, mask_ratio: float, adversarial: AdversarialConfig) -> float:
    """Return the FLOPs of one training step over its clips: forward and backward of both networks, for one clip."""
    seen, hidden = _tokens(shape, mask_ratio)
    width, decoder_width, patch = shape.encoder_dim, shape.decoder_dim, shape.patch_values
    embedding = 2 * seen * patch * width  # its input has no gradient: two passes in place of three
    body = (
        _blocks(seen, width, shape.encoder_depth, shape.mlp_ratio)
        + 2 * seen * width * decoder_width
        + _blocks(seen + hidden, decoder_width, shape.decoder_depth, shape.mlp_ratio)
        + 2 * hidden * decoder_width * patch
    )
    generator = adversarial.g_steps * (2 * embedding + 3 * body)
    if not adversarial.enabled:
        return generator
    first, second = 2 * hidden * patch * 4 * decoder_width, 2 * hidden * 4 * decoder_width
    learning = adversarial.d_steps * 2 * (2 * first + 3 * second)  # on real patches and on predicted ones
    judging = adversarial.g_steps * 2 * (first + second)  # for the generator: no gradients of weights
    return generator + learning + judging


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that a large square matrix product reaches on this device with this process's threads."""
    size = 8192 if device.type == "cuda" else 1024
    factor = torch.rand(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _tokens(shape: ModelConfig, mask_ratio: float) -> tuple[int, int]:
    seen = visible_tokens(shape.grid, mask_ratio)
    return seen, shape.tokens - seen


def _blocks(tokens: int, width: int, depth: int, mlp_ratio: int) -> float:
    """Forward FLOPs of transformer blocks: qkv, scores and values, projection, MLP."""
    linear = 2 * tokens * width * width * (4 + 2 * mlp_ratio)
    attention = 4 * tokens * tokens * width
    return depth * (linear + attention)
