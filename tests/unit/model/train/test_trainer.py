"""The loop's clock on a step that does nothing, and its step on engines that are plain PyTorch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from infra.launcher import ExitStatus
from model.train import step, trainer
from model.train.engines import Engines
from model.train.trainer import StopSignal, Trainer
from model.train_config import AdversarialConfig, OptimConfig, PretrainConfig
from tests.support.toy_nets import toy_batch, toy_nets


class IdleTrainer(Trainer):
    """Steps without engines."""

    def _step(self, batch: Any) -> float:
        self.step += 1
        return 0.0

    def _log(self, rate: float, progress: Any) -> None:
        pass


def test_the_clock_stops_when_the_device_has_done_the_step(monkeypatch):
    """Catches speeds of work that a GPU has only queued: what all ranks answer is read from it, so it has worked."""
    order: list[str] = []

    def answer(flag: bool, device: torch.device) -> bool:
        order.append("device is done")
        return flag

    monkeypatch.setattr(trainer, "any_rank", answer)
    checkpoint = SimpleNamespace(every_steps=0, keep_last=1, keep_best=0)
    cfg: Any = SimpleNamespace(steps=2, log_every=0, validate_every=0, picture_every=0, checkpoint=checkpoint)
    idle = IdleTrainer(
        cfg, MagicMock(), MagicMock(), MagicMock(), 1, "digest", MagicMock(), MagicMock(), StopSignal(), MagicMock(),
        MagicMock(),
    )  # fmt: skip
    monkeypatch.setattr(idle.meter, "add", lambda seconds, waited: order.append("clock stops"))
    monkeypatch.setattr(IdleTrainer, "save", lambda self, val_loss: None)
    assert idle.train(MagicMock()) is ExitStatus.DONE
    assert order == ["device is done", "clock stops"] * 2


class PlainEngine:
    """What the step asks of an engine, without DeepSpeed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = self.forward = module
        self.optimizer = torch.optim.SGD(module.parameters())

    def __call__(self, *inputs: Tensor) -> Any:
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def is_gradient_accumulation_boundary(self) -> bool:
        return True

    def was_step_applied(self) -> bool:
        return True

    def get_global_grad_norm(self) -> float:
        return 0.0


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a trainer of the toy nets after its first step with some settings."""
    monkeypatch.setattr(step.dist, "all_reduce", lambda *_, **__: None)

    def stepped(**settings: Any) -> Trainer:
        generator, discriminator = (PlainEngine(net) for net in toy_nets())
        engines = Engines(generator, discriminator, torch.device("cpu"), torch.float32, accumulation=1)
        optim = OptimConfig(base_lr=20, warmup_clips=0, discriminator_lr_scale=settings.pop("scale", 1.0))
        cfg = PretrainConfig(global_batch=4, optim=optim, adversarial=AdversarialConfig(**settings))
        made = Trainer(cfg, MagicMock(), engines, MagicMock(), 4, "digest", *[MagicMock()] * 5)
        made._step(toy_batch(0))
        return made

    return stepped


def test_the_discriminator_learns_at_its_own_rate(plain):
    """Catches a setting that is read, checked, recorded and never used."""
    engines = plain(scale=0.25).engines
    rates = [engine.optimizer.param_groups[0]["lr"] for engine in (engines.generator, engines.discriminator)]
    assert rates[1] == 0.25 * rates[0] > 0


def test_the_adversarial_loss_is_logged_as_before_the_first_of_several_updates(plain):
    """Catches a mean with what the generator's own updates made of it, beside a reconstruction loss from before."""
    once, twice = (plain(g_steps=steps) for steps in (1, 2))
    assert twice.result.adversarial_g == once.result.adversarial_g
    weights = [made.engines.generator.module.body[0].weight for made in (once, twice)]
    assert not torch.equal(*weights)
