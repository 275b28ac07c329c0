"""One optimiser step of both engines: the whole mathematics of pretraining, and no I/O.

The order is the released one: the discriminator learns on the generator's predictions, then the generator on the
discriminator's new opinion. Two things differ in cost and not in result. The prediction serves both, so the generator
runs forward once (the released code runs it forward *and backward* twice). With gradient accumulation a loop "D then G
per micro-batch" would be wrong, since DeepSpeed steps D only at the last micro-batch and G would see an old D before;
so D goes over all micro-batches first and the generator's forward is repeated for its own pass; without D it is not.

The generator's loss passes through ``discriminator.module`` with frozen parameters, never through the engine: else its
gradients would leak into the discriminator's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from model.data.batch import ClipBatch
from model.losses import adversarial_loss, discriminator_loss, gradient_penalty
from model.train.engines import Engines, frozen, remember
from model.train_config import AdversarialConfig


class StepResult(NamedTuple):
    """Losses of this rank (0-d fp32, means over its micro-batches), taken before the update they led to.

    ``is_finite`` is the same on all ranks; when False neither engine was updated and ``adversarial_g``, which comes
    after the discriminator's update, is NaN. Gradient norms are global, and None when nothing was updated.
    """

    reconstruction: Tensor
    adversarial_g: Tensor
    discriminator: Tensor
    is_finite: bool
    grad_norm_g: float | None
    grad_norm_d: float | None


class _Judgement(NamedTuple):
    """The discriminator's loss on one micro-batch, and its gradient penalty (0 when off, or without gradients)."""

    wasserstein: Tensor
    penalty: Tensor


class _Forward(NamedTuple):
    """pred_BMP, target_BMP of the hidden patches, and the reconstruction loss."""

    pred_BMP: Tensor
    target_BMP: Tensor
    loss: Tensor


def pretrain_step(engines: Engines, batches: Sequence[ClipBatch], cfg: AdversarialConfig) -> StepResult:
    """Update discriminator and generator once on this rank's share of a global batch. Collective.

    Args:
        engines: both engines, learning rates set.
        batches: one micro-batch per accumulation, all of one size, on the engines' device.
        cfg: adversarial settings.

    A loss or a gradient that is not finite on any rank makes all ranks skip both updates, so the run equals one without
    this step. DeepSpeed alone lets the engine skip whose gradients those are (fp16's loss scale overflows every few
    thousand steps) and steps the other, so what the discriminator did is then undone.
    """
    if len(batches) != engines.accumulation:
        raise ValueError(f"{len(batches)} micro-batches, and the engines accumulate {engines.accumulation}")
    single = len(batches) == 1
    if engines.discriminator is None and not single:
        return _reconstruction_step(engines, batches, cfg.g_steps)
    with nullcontext() if single else torch.no_grad():
        forwards = [_forward(engines, batch) for batch in batches]
        judged = [_judge(engines, forward, cfg) for forward in forwards]
    reconstruction = _mean([forward.loss for forward in forwards])
    d_loss = _mean([judgement.wasserstein for judgement in judged])
    skipped = StepResult(reconstruction, torch.full_like(d_loss, math.nan), d_loss, False, None, None)
    if not _all_finite(engines.device, reconstruction, d_loss):
        return skipped

    discriminator = engines.discriminator
    if discriminator is not None:
        undo = remember(discriminator)
        for repeat in range(cfg.d_steps):
            for forward, first in zip(forwards, judged, strict=True):
                judgement = first if single and repeat == 0 else _judge(engines, forward, cfg)
                discriminator.backward(judgement.wasserstein + cfg.gp_weight * judgement.penalty)
                _step(discriminator, engines.device)
            if not discriminator.was_step_applied():
                undo()
                return skipped

    adversarial = []
    if not single:
        forwards.clear()  # their memory is the generator's turn's
    for repeat in range(cfg.g_steps):
        for batch in batches:
            current = forwards[0] if single and repeat == 0 else _forward(engines, batch)
            term = _adversarial_loss(engines, current)
            engines.generator.backward(current.loss + cfg.weight * term)
            _step(engines.generator, engines.device)
            adversarial.append(term.detach())
        if repeat == 0 and not engines.generator.was_step_applied():
            if discriminator is not None:
                undo()
            return skipped
    return StepResult(
        reconstruction, _mean(adversarial[: len(batches)]), d_loss, True, _grad_norm(engines.generator),
        _grad_norm(discriminator),
    )  # fmt: skip


def _reconstruction_step(engines: Engines, batches: Sequence[ClipBatch], g_steps: int) -> StepResult:
    """Update the generator on several micro-batches with one forward each: no discriminator needs predictions before.

    By the time a loss turns out not to be finite, gradients of others are added up, and only by its gradients can
    DeepSpeed be told to leave a step out: they are made NaN on all ranks.
    """
    losses: list[Tensor] = []
    zero = torch.zeros((), device=engines.device)
    for repeat in range(g_steps):
        for batch in batches:
            loss = _forward(engines, batch).loss
            if repeat == 0:
                losses.append(loss.detach())
                if len(losses) == len(batches) and not _all_finite(engines.device, *losses):
                    loss = loss + math.nan * next(engines.generator.module.parameters()).sum()
            engines.generator.backward(loss)
            _step(engines.generator, engines.device)
        if repeat == 0 and not engines.generator.was_step_applied():
            return StepResult(_mean(losses), torch.full_like(zero, math.nan), zero, False, None, None)
    return StepResult(_mean(losses), zero, zero, True, _grad_norm(engines.generator), None)


def forward_generator(network: Callable[..., Any], batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """Return (pred_BMP, target_BMP) of the hidden patches of a batch on the network's device."""
    pred_BMP, target_BMP = network(batch.clip_BTHWC.permute(0, 4, 1, 2, 3), batch.is_masked_BL, batch.is_target_BL)
    return pred_BMP, target_BMP


def _forward(engines: Engines, batch: ClipBatch) -> _Forward:
    pred_BMP, target_BMP = forward_generator(engines.generator, batch)
    return _Forward(pred_BMP, target_BMP, engines.reconstruction_loss(pred_BMP, target_BMP))


def _judge(engines: Engines, forward: _Forward, cfg: AdversarialConfig) -> _Judgement:
    """Loss of D on detached predictions and on true patches; zeros without a discriminator."""
    zero = torch.zeros((), device=engines.device)
    if engines.discriminator is None:
        return _Judgement(zero, zero)
    fake_BMP, real_BMP = forward.pred_BMP.detach(), forward.target_BMP.to(forward.pred_BMP.dtype)
    if fake_BMP.dtype == torch.float32:  # saves a copy of both
        fake_scores, real_scores = engines.discriminator(fake_BMP), engines.discriminator(real_BMP)
    else:  # their gradients nearly cancel: half precision must not round them before they are added
        fake_scores, real_scores = engines.discriminator(torch.cat([fake_BMP, real_BMP])).chunk(2)
    penalty = zero
    if cfg.gp_weight and torch.is_grad_enabled():
        # the mix comes from this rank's global generator, which is part of the checkpoint
        mix_B11 = torch.rand(len(fake_BMP), 1, 1, device=engines.device, dtype=fake_BMP.dtype)
        judge = engines.discriminator.module.forward  # as written: what torch.compile makes has no second derivative
        penalty = gradient_penalty(judge, fake_BMP, real_BMP, mix_B11)
    return _Judgement(discriminator_loss(fake_scores, real_scores), penalty)


def _adversarial_loss(engines: Engines, forward: _Forward) -> Tensor:
    if engines.discriminator is None:
        return torch.zeros((), device=engines.device)
    with frozen(engines.discriminator.module) as judge:
        return adversarial_loss(judge(forward.pred_BMP))


def _step(engine: Any, device: torch.device) -> None:
    """Step an engine; at ZeRO 0 leave out gradients that are not finite, as DeepSpeed does at the other stages.

    There our plain AdamW steps, and DeepSpeed neither looks at gradients nor measures them. It does read both
    attributes off the optimizer, and AdamW passes over parameters without a gradient. Collective.
    """
    if isinstance(engine.optimizer, torch.optim.Optimizer) and engine.is_gradient_accumulation_boundary():
        gradients = [value.grad for value in engine.module.parameters() if value.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        is_finite = _all_finite(device, norm)
        engine.optimizer._global_grad_norm, engine.optimizer.overflow = norm, not is_finite  # type: ignore[attr-defined]
        if not is_finite:
            engine.zero_grad()
    engine.step()


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.detach().float() for value in values]).mean()


def _all_finite(device: torch.device, *values: Tensor) -> bool:
    """Whether every value is finite on every rank. Collective."""
    finite = torch.stack([torch.isfinite(value) for value in values]).all().float().reshape(1).to(device)
    dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite.item())


def _grad_norm(engine: object | None) -> float | None:
    """Global norm of the last update's gradients, as DeepSpeed or ``_step`` measured it."""
    norm = None if engine is None else engine.get_global_grad_norm()  # type: ignore[attr-defined]
    return None if norm is None else float(norm)
