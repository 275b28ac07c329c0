"""The loop's clock, on a step that does nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from infra.launcher import ExitStatus
from model.train import trainer
from model.train.trainer import StopSignal, Trainer


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
