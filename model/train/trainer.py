"""The training loop: batches in, steps, numbers, checkpoints; all decisions are taken by all ranks together."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from infra.errors import TrainingError
from infra.launcher import ExitStatus
from infra.metrics import MetricSink
from infra.progress import Progress
from model.data.batch import ClipBatch
from model.data.loader import ClipLoader
from model.train.checkpoint import save_checkpoint
from model.train.checkpoint_folder import TrainState
from model.train.engines import Engines
from model.train.meter import Meter
from model.train.run_folder import WEIGHTS
from model.train.schedule import learning_rate
from model.train.step import StepResult, pretrain_step
from model.train.validate import VAL_LOSS, Validation
from model.train_config import PretrainConfig

logger = logging.getLogger(__name__)


class StopSignal:
    """Set by SIGTERM or SIGINT; the loop looks at it between steps."""

    def __init__(self) -> None:
        self.is_set = False

    def install(self) -> None:
        """Take over both signals in this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, number: int, _: object) -> None:
        logger.warning("received %s; saving after this step", signal.Signals(number).name)
        self.is_set = True


@dataclass
class Trainer:
    """One rank's side of a run.

    Args:
        cfg: resolved settings (no ``auto`` left).
        run_dir: run folder; checkpoints go there.
        engines: both engines.
        loader: this rank's batches, already at the run's position.
        micro_batch: clips per forward.
        digest: of ``cfg``, kept in checkpoints.
        sink: where numbers go; a null sink off rank 0.
        meter: adds up where time goes.
        stop: looked at between steps.
        validation: measures and draws.
        write_weights: called by all ranks with a path and the step; writes the weights there.
        step: finished steps.
        skipped: latest steps in a row that were not finite.
        skipped_total: all steps that were not.
        saved: step of the checkpoint that the run is saved in, 0 before the first.
        saved_at: when, in seconds of ``time.monotonic``.
    """

    cfg: PretrainConfig
    run_dir: Path
    engines: Engines
    loader: ClipLoader
    micro_batch: int
    digest: str
    sink: MetricSink
    meter: Meter
    stop: StopSignal
    validation: Validation
    write_weights: Callable[[Path, int], None]
    step: int = 0
    skipped: int = 0
    skipped_total: int = 0
    saved: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def resume(self, state: TrainState | None) -> None:
        """Go on from a checkpoint's state; None begins."""
        if state is not None:
            self.step = self.saved = state.step
            self.skipped, self.skipped_total = state.skipped, state.skipped_total
            self.loader.load_state_dict(state.data)
            logger.info("resuming after step %d, %d clips seen", state.step, state.data["clips_seen"])

    def train(self, progress: Progress) -> ExitStatus:
        """Run to the last step, or until a signal; a checkpoint is written at either end.

        Raises:
            TrainingError: too many steps in a row were not finite; raised on all ranks.
        """
        while self.step < self.cfg.steps:
            if any_rank(self.stop.is_set, self.engines.device):  # before clips are waited for, too
                if self.saved != self.step:
                    self.save(None)
                return ExitStatus.PREEMPTED
            started = time.monotonic()
            batch = next(self.loader)
            waited = time.monotonic() - started
            rate = self._step(batch)
            stopping = any_rank(self.stop.is_set, self.engines.device)  # also waits for the GPU's work
            self.meter.add(time.monotonic() - started, waited)
            if self.step == 1 or self._due(self.cfg.log_every):
                self._log(rate, progress)
            progress.update(1)
            last, saving = self.step == self.cfg.steps, self._due(self.cfg.checkpoint.every_steps)
            measured: dict[str, float] = {}
            if last or not stopping:
                measured = self._look(measure=saving or self._due(self.cfg.validate_every))
            if saving or any_rank(self._is_late(), self.engines.device):
                self.save(measured.get(VAL_LOSS))
        return ExitStatus.DONE

    def save(self, val_loss: float | None) -> None:
        """Write a checkpoint of the current step, whose validation loss this is. Collective."""
        state = TrainState(
            self.step, self.loader.state_dict(), self.digest, dist.get_world_size(), self.skipped, val_loss,
            self.skipped_total,
        )  # fmt: skip
        folder = save_checkpoint(
            self.run_dir, self.engines, state, keep_last=self.cfg.checkpoint.keep_last,
            keep_best=self.cfg.checkpoint.keep_best,
            add=lambda folder: self.write_weights(folder / WEIGHTS, self.step),
        )  # fmt: skip
        self.saved, self.saved_at = self.step, time.monotonic()
        logger.info("checkpoint %s", folder)

    def _step(self, batch: ClipBatch) -> float:
        """Take one step; return its learning rate."""
        cfg = self.cfg
        rate = learning_rate(self.step * cfg.global_batch, cfg.global_batch, cfg.optim)
        self.engines.set_learning_rate(rate, cfg.optim.discriminator_lr_scale)
        micro_batches = [part.to(self.engines.device) for part in batch.split(self.micro_batch)]
        self.result = pretrain_step(self.engines, micro_batches, cfg.adversarial)
        self.step += 1
        self.skipped = 0 if self.result.is_finite else self.skipped + 1
        self.skipped_total += not self.result.is_finite
        if self.skipped:
            logger.warning("step %d skipped on all ranks: a loss or gradient is not finite", self.step)
        if self.skipped >= cfg.max_skipped:
            raise TrainingError(
                f"diverged: losses or gradients of {self.skipped} steps in a row, up to step {self.step}, are not "
                "finite; lower optim.base_lr or raise optim.warmup_clips, and start a new run folder"
            )
        return rate

    def _is_late(self) -> bool:
        """Whether the last checkpoint is older than ``every_minutes``; by rank 0's clock."""
        minutes = self.cfg.checkpoint.every_minutes
        return minutes is not None and dist.get_rank() == 0 and time.monotonic() - self.saved_at >= minutes * 60

    def _due(self, every: int) -> bool:
        """Whether something is due that happens every so many steps (0: never) and after the last one."""
        return self.step == self.cfg.steps or (every > 0 and self.step % every == 0)

    def _log(self, rate: float, progress: Progress) -> None:
        losses = average_over_ranks(self.result, self.engines.device)
        counts = {"steps/skipped": float(self.skipped_total)} | _loss_scales(self.engines)
        self._write(losses | _facts(self.result, rate) | counts | self.meter.read())
        progress.update(0, note=f"loss {losses['loss/reconstruction']:.4f}")

    def _write(self, values: dict[str, float]) -> None:
        """Log what was measured: of a skipped step some is not, and what is not finite is no JSON."""
        self.sink.log(self.step, {name: value for name, value in values.items() if math.isfinite(value)})

    def _look(self, *, measure: bool) -> dict[str, float]:
        """Draw where it is due, and measure; return the measurements."""
        if self._due(self.cfg.picture_every):
            self.validation.draw(self.step)
        measured = self.validation.measure() if measure else {}
        if measured:
            self._write(measured)
        return measured


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank: the same answer everywhere. Collective."""
    flags = torch.tensor([float(flag)], device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def average_over_ranks(result: StepResult, device: torch.device) -> dict[str, float]:
    """Return the three losses averaged over ranks. Collective."""
    losses = torch.stack([result.reconstruction, result.adversarial_g, result.discriminator]).float().to(device)
    dist.all_reduce(losses)
    names = ("loss/reconstruction", "loss/adversarial_g", "loss/discriminator")
    return dict(zip(names, (losses / dist.get_world_size()).tolist(), strict=True))


def _loss_scales(engines: Engines) -> dict[str, float]:
    """What fp16 multiplies losses by, so that their gradients do not vanish; nothing in other precisions."""
    if engines.dtype != torch.float16:
        return {}
    pairs = {"loss_scale/g": engines.generator, "loss_scale/d": engines.discriminator}
    return {name: float(one.optimizer.loss_scaler.cur_scale) for name, one in pairs.items() if one is not None}


def _facts(result: StepResult, rate: float) -> dict[str, float]:
    """Learning rate and gradient norms; the norms are missing where nothing was updated."""
    norms = {"grad_norm/g": result.grad_norm_g, "grad_norm/d": result.grad_norm_d}
    return {"lr": rate, **{name: norm for name, norm in norms.items() if norm is not None}}
