"""The loop's clock on a step that does nothing, and its step on engines that are plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from infra.errors import TrainingError
from infra.launcher import ExitStatus
from model.train import step, trainer
from model.train.engines import Engines
from model.train.trainer import StopSignal, Trainer
from model.train_config import AdversarialConfig, OptimConfig, PretrainConfig
from tests.support.toy_nets import toy_batch, toy_nets


class IdleTrainer(Trainer):
    """Steps without engines."""

    saves: list[int]
    when_saved: Callable[[], None]

    def _step(self, batch: Any) -> float:
        self.step += 1
        return 0.0

    def _log(self, rate: float, progress: Any) -> None:
        pass

    def save(self, val_loss: float | None) -> None:
        self.saves.append(self.step)
        self.saved, self.saved_at = self.step, trainer.time.monotonic()
        self.when_saved()


def idle_trainer(steps: int = 9, every_steps: int = 0, every_minutes: float | None = None) -> IdleTrainer:
    """An idle run of so many steps, of which ``saves`` counts the checkpoints."""
    checkpoint = SimpleNamespace(every_steps=every_steps, every_minutes=every_minutes)
    cfg: Any = SimpleNamespace(steps=steps, log_every=0, validate_every=0, picture_every=0, checkpoint=checkpoint)
    made = IdleTrainer(cfg, *[MagicMock()] * 3, 1, "digest", *[MagicMock()] * 2, StopSignal(), *[MagicMock()] * 2)
    made.saves, made.when_saved = [], lambda: None
    return made


def test_the_clock_stops_when_the_device_has_done_the_step(monkeypatch):
    """Catches speeds of work that a GPU has only queued: what all ranks answer is read from it, so it has worked."""
    order: list[str] = []

    def answer(flag: bool, device: torch.device) -> bool:
        order.append("device is done")
        return flag

    monkeypatch.setattr(trainer, "any_rank", answer)
    idle = idle_trainer(steps=2)
    monkeypatch.setattr(idle.meter, "add", lambda seconds, waited: order.append("clock stops"))
    assert idle.train(MagicMock()) is ExitStatus.DONE
    assert order.count("clock stops") == 2
    assert all(order[at - 1] == "device is done" for at, what in enumerate(order) if what == "clock stops")


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process group: what one rank says is what all say."""
    monkeypatch.setattr(trainer, "any_rank", lambda flag, device: flag)
    monkeypatch.setattr(trainer.dist, "get_rank", lambda: 0)


def test_a_signal_is_heard_before_clips_are_waited_for(one_rank):
    """Catches a preempted run that reads and computes a whole step more: after a save, and before its first step."""
    early = idle_trainer()
    early.stop.is_set = True
    assert early.train(MagicMock()) is ExitStatus.PREEMPTED
    assert (early.step, early.saves) == (0, [])  # nothing done, nothing to save
    told = idle_trainer(every_steps=2)
    told.when_saved = lambda: setattr(told.stop, "is_set", True)
    assert told.train(MagicMock()) is ExitStatus.PREEMPTED
    assert (told.step, told.saves) == (2, [2])  # and not saved twice


def test_a_slow_run_is_saved_by_the_clock(one_rank, monkeypatch):
    """Catches hours lost with a rank, where ``every_steps`` was chosen for a faster machine; rank 0's clock counts."""
    now = iter(range(1000))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: next(now) * 12.0)
    clocked = idle_trainer(steps=6, every_minutes=1)
    clocked.saved_at = 0.0
    assert clocked.train(MagicMock()) is ExitStatus.DONE
    assert len(clocked.saves) > 1
    assert clocked.saves[-1] == 6
    monkeypatch.setattr(trainer.dist, "get_rank", lambda: 1)
    assert not idle_trainer(every_minutes=1e-9)._is_late()


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


def test_skipped_steps_are_counted_and_what_they_did_not_measure_is_left_out(plain, monkeypatch):
    """Catches a run of which no number shows that 19 of 20 steps were skipped, and a NaN where JSON has none."""
    monkeypatch.setattr(trainer.dist, "all_reduce", lambda *_, **__: None)
    monkeypatch.setattr(trainer.dist, "get_world_size", lambda: 1)
    made = plain()
    made.meter.read.return_value = {}
    nothing_hidden = toy_batch(1)._replace(is_masked_BL=torch.zeros_like(toy_batch(1).is_masked_BL))
    made._step(nothing_hidden)
    made._log(0.1, MagicMock())
    made._step(toy_batch(2))
    assert (made.skipped, made.skipped_total) == (0, 1)
    made._log(0.1, MagicMock())
    (bad, good) = (call.args[1] for call in made.sink.log.call_args_list)
    assert {name for name in bad if "/" in name} == {"steps/skipped"}
    assert (bad["steps/skipped"], good["steps/skipped"]) == (1, 1)
    assert {"loss/reconstruction", "loss/adversarial_g", "loss/discriminator"} <= good.keys()


def test_too_many_skipped_steps_in_a_row_end_the_run_as_diverged(plain):
    """Catches a run that computes for weeks on weights that no step changes."""
    made = plain()
    nothing_hidden = toy_batch(1)._replace(is_masked_BL=torch.zeros_like(toy_batch(1).is_masked_BL))
    for _ in range(19):
        made._step(nothing_hidden)
    with pytest.raises(TrainingError, match=r"diverged: .* of 20 steps in a row, up to step 21"):
        made._step(nothing_hidden)
    assert made.skipped_total == 20


@pytest.mark.parametrize(("adversarial", "forwards"), [(True, 8), (False, 4)])
def test_the_generator_runs_forward_no_more_often_than_it_must(monkeypatch, adversarial, forwards):
    """Catches a forward of every micro-batch that serves no discriminator: half as much arithmetic again."""
    monkeypatch.setattr(step.dist, "all_reduce", lambda *_, **__: None)
    generator, discriminator = (PlainEngine(net) for net in toy_nets())
    calls = []
    generator.module.register_forward_hook(lambda *_: calls.append(1))
    engines = Engines(generator, discriminator if adversarial else None, torch.device("cpu"), torch.float32, 4)
    assert step.pretrain_step(engines, toy_batch(0).split(1), AdversarialConfig(enabled=adversarial)).is_finite
    assert len(calls) == forwards
