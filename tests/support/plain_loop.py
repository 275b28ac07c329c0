"""Pretraining of the toy nets in plain PyTorch, in the released order and split: what the engines must equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.train.determinism import rank_seed
from tests.support.toy_nets import toy_batch, toy_nets


def plain_run(
    steps: int,
    parts: int,
    *,
    batch: int,
    rate: float,
    weight: float,
    d_steps: int = 1,
    g_steps: int = 1,
    gp_weight: float = 0.0,
) -> dict[str, dict[str, Tensor]]:
    """Train with each batch cut into ``parts``: D over all parts and a step, then G over all parts and a step.

    With a gradient penalty part i is rank i's, and draws from a generator seeded as that rank's is.
    """
    noise = [torch.Generator().manual_seed(rank_seed(0, rank)) for rank in range(parts)]
    generator, discriminator = toy_nets()
    optimizers = [
        torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        for net in (generator, discriminator)
    ]
    for step in range(steps):
        pieces = toy_batch(step).split(batch // parts)
        inputs = [(piece.clip_BTHWC.permute(0, 4, 1, 2, 3), piece.is_masked_BL) for piece in pieces]
        for _ in range(d_steps):
            optimizers[1].zero_grad()
            for (clip, mask), draw in zip(inputs, noise, strict=True):
                with torch.no_grad():
                    fake, real = generator(clip, mask)
                loss = wasserstein(discriminator, fake, real)
                if gp_weight:
                    mix = torch.rand(len(fake), 1, 1, generator=draw)
                    loss = loss + gp_weight * penalty(discriminator, fake, real, mix)
                (loss / parts).backward()
            optimizers[1].step()
        for _ in range(g_steps):
            optimizers[0].zero_grad()
            for clip, mask in inputs:
                fake, real = generator(clip, mask)
                (((fake - real).square().mean() - weight * discriminator(fake).mean()) / parts).backward()
            optimizers[0].step()
    return {"G": _state(generator), "D": _state(discriminator)}


def wasserstein(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """Mean score of fakes less mean score of reals."""
    return discriminator(fake).mean() - discriminator(real).mean()


def penalty(discriminator: nn.Module, fake: Tensor, real: Tensor, mix: Tensor) -> Tensor:
    """Mean squared distance of the critic's slope from 1, between fakes and reals."""
    points = (mix * fake + (1 - mix) * real).requires_grad_()
    slopes = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)[0]
    return (slopes.norm(dim=-1) - 1).square().mean()


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor], *, skip: str = "") -> float:
    """Return the largest absolute difference of two states of one network, leaving out ``skip``."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one if name != skip)
