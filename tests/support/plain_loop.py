"""Pretraining of the toy nets in plain PyTorch, in the released order and split: what the engines must equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.toy_nets import toy_batch, toy_nets


def plain_run(
    steps: int, parts: int, *, batch: int, rate: float, weight: float, d_steps: int = 1
) -> dict[str, dict[str, Tensor]]:
    """Train with each batch cut into ``parts``: D over all parts and a step, then G over all parts and a step."""
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
            for clip, mask in inputs:
                with torch.no_grad():
                    fake, real = generator(clip, mask)
                (wasserstein(discriminator, fake, real) / parts).backward()
            optimizers[1].step()
        optimizers[0].zero_grad()
        for clip, mask in inputs:
            fake, real = generator(clip, mask)
            (((fake - real).square().mean() - weight * discriminator(fake).mean()) / parts).backward()
        optimizers[0].step()
    return {"G": _state(generator), "D": _state(discriminator)}


def wasserstein(discriminator: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
    """Mean score of fakes less mean score of reals."""
    return discriminator(fake).mean() - discriminator(real).mean()


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor], *, skip: str = "") -> float:
    """Return the largest absolute difference of two states of one network, leaving out ``skip``."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one if name != skip)
