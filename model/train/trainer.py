"""The training loop: batches in, steps, numbers, checkpoints; all decisions are taken by all ranks together."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from infra.errors import TrainingError
from infra.launcher import ExitStatus
from infra.metrics import MetricSink
from infra.progress import Progress
from model.data.loader import ClipLoader
from model.train.checkpoint import TrainState, save_checkpoint
from model.train.engines import Engines
from model.train.run_folder import WEIGHTS
from model.train.schedule import learning_rate
from model.train.step import StepResult, pretrain_step
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
        stop: looked at between steps.
        validate: called by all ranks with the step at each validation; returns further metrics.
        write_weights: called by all ranks with a path and the step; writes the weights there.
        step: finished steps.
        skipped: latest steps in a row that were not finite.
    """

    cfg: PretrainConfig
    run_dir: Path
    engines: Engines
    loader: ClipLoader
    micro_batch: int
    digest: str
    sink: MetricSink
    stop: StopSignal
    validate: Callable[[int], dict[str, float]]
    write_weights: Callable[[Path, int], None]
    step: int = 0
    skipped: int = 0

    def resume(self, state: TrainState | None) -> None:
        """Go on from a checkpoint's state; None begins."""
        if state is not None:
            self.step, self.skipped = state.step, state.skipped
            self.loader.load_state_dict(state.data)
            logger.info("resuming after step %d, %d clips seen", state.step, state.data["clips_seen"])

    def train(self, progress: Progress) -> ExitStatus:
        """Run to the last step, or until a signal; a checkpoint is written at either end.

        Raises:
            TrainingError: too many steps in a row were not finite; raised on all ranks.
        """
        cfg, world = self.cfg, dist.get_world_size()
        while self.step < cfg.steps:
            started = time.monotonic()
            batch = next(self.loader)
            waited = time.monotonic() - started
            rate = learning_rate(self.step * cfg.global_batch, cfg.global_batch, cfg.optim)
            self.engines.set_learning_rate(rate, cfg.optim.discriminator_lr_scale)
            micro_batches = [part.to(self.engines.device) for part in batch.split(self.micro_batch)]
            result = pretrain_step(self.engines, micro_batches, cfg.adversarial)
            self.step += 1
            self.skipped = 0 if result.is_finite else self.skipped + 1
            last = self.step == cfg.steps
            if self.step % cfg.log_every == 0 or self.step == 1 or last:
                losses = average_over_ranks(result, self.engines.device)
                elapsed = time.monotonic() - started
                self.sink.log(self.step, _metrics(losses, result, rate, elapsed, waited, cfg.global_batch))
                progress.update(0, note=f"loss {losses[0]:.4f}")
            progress.update(1)
            if not result.is_finite:
                logger.warning("step %d skipped on all ranks: a loss is not finite", self.step)
            if self.skipped >= cfg.max_skipped:
                raise TrainingError(
                    f"diverged: the losses of {self.skipped} steps in a row, up to step {self.step}, are not finite; "
                    "lower optim.base_lr or raise optim.warmup_clips, and start a new run folder"
                )
            stopping = any_rank(self.stop.is_set, self.engines.device)
            looked_at = last or (cfg.picture_every and self.step % cfg.picture_every == 0 and not stopping)
            if looked_at and (measured := self.validate(self.step)):
                self.sink.log(self.step, measured)
            if last or stopping or self.step % cfg.checkpoint.every_steps == 0:
                self.save(world)
            if stopping and not last:
                return ExitStatus.PREEMPTED
        return ExitStatus.DONE

    def save(self, world: int) -> None:
        """Write a checkpoint of the current step. Collective."""
        state = TrainState(self.step, self.loader.state_dict(), self.digest, world, self.skipped)
        folder = save_checkpoint(
            self.run_dir, self.engines, state, keep_last=self.cfg.checkpoint.keep_last,
            add=lambda folder: self.write_weights(folder / WEIGHTS, self.step),
        )  # fmt: skip
        logger.info("checkpoint %s", folder)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank: the same answer everywhere. Collective."""
    flags = torch.tensor([float(flag)], device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags.item())


def average_over_ranks(result: StepResult, device: torch.device) -> list[float]:
    """Return (reconstruction, adversarial_g, discriminator) averaged over ranks. Collective."""
    losses = torch.stack([result.reconstruction, result.adversarial_g, result.discriminator]).float().to(device)
    dist.all_reduce(losses)
    return (losses / dist.get_world_size()).tolist()


def _metrics(
    losses: list[float], result: StepResult, rate: float, elapsed: float, waited: float, clips: int
) -> dict[str, float]:
    values = {
        "loss/reconstruction": losses[0],
        "loss/adversarial_g": losses[1],
        "loss/discriminator": losses[2],
        "lr": rate,
        "data/clips(1/s)": clips / elapsed,
        "time/step(s)": elapsed,
        "time/data_wait(%)": 100 * waited / elapsed,
    }
    if result.grad_norm_g is not None:
        values["grad_norm/g"] = result.grad_norm_g
    if result.grad_norm_d is not None:
        values["grad_norm/d"] = result.grad_norm_d
    return values
