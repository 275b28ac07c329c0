"""The losses of the released code. Scores are (B, M), patches (B, M, P); every loss is a 0-d fp32 tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def reconstruction_loss(pred_BMP: Tensor, target_BMP: Tensor) -> Tensor:
    """Mean squared error over hidden patches, raw pixels in [0, 1], no normalisation by patch."""
    return torch.nn.functional.mse_loss(pred_BMP.float(), target_BMP.float())


def discriminator_loss(fake_scores: Tensor, real_scores: Tensor) -> Tensor:
    """Wasserstein loss of the discriminator: mean D(fake) − mean D(real)."""
    return fake_scores.float().mean() - real_scores.float().mean()


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """The generator's term: −mean D(fake); its weight is the caller's (0.01 in the paper)."""
    return -fake_scores.float().mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], fake_BMP: Tensor, real_BMP: Tensor, mix_B11: Tensor
) -> Tensor:
    """Mean of (‖∇D‖ − 1)² at points between fakes and reals (Gulrajani et al., 2017, arXiv:1704.00028).

    Args:
        discriminator: patches to scores.
        fake_BMP: predictions, detached.
        real_BMP: true patches.
        mix_B11: where each clip's points lie, in [0, 1]; drawn by the caller, so that it is reproducible.
    """
    points_BMP = (mix_B11 * fake_BMP + (1 - mix_B11) * real_BMP).detach().requires_grad_(True)
    (slope_BMP,) = torch.autograd.grad(discriminator(points_BMP).sum(), points_BMP, create_graph=True)
    return ((slope_BMP.float().norm(dim=-1) - 1) ** 2).mean()
