"""What torchrun starts on every rank of a fine-tuning: ``python -m model.adapt.worker FOLDER``.

The folder holds the job (``model.adapt.finetune``) and takes checkpoints, the best weights and the result. Checkpoints,
loader, launch and exit status are pretraining's; one DeepSpeed engine takes the place of its two.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from infra.errors import ConfigError, TrainingError
from infra.launcher import ExitStatus
from infra.metrics import MetricSink, open_metrics
from infra.progress import Progress
from model.adapt.classifier import Classifier
from model.adapt.encoder import head_of
from model.adapt.encoders import open_encoder
from model.adapt.finetune import (
    BEST_FILE,
    HEAD_FILE,
    RESULT,
    RESULT_FILE,
    VARIANTS,
    FinetuneJob,
    FinetuneResult,
    read_job,
)
from model.adapt.layers import layer_groups
from model.adapt.objective import task_loss
from model.adapt.pixels import ClipPixels
from model.adapt.samples import draws_of
from model.adapt.stream import SampleStream
from model.data.loader import ClipLoader
from model.train.checkpoint import FOLDER, TrainState, load_checkpoint, save_checkpoint
from model.train.determinism import seed_everything
from model.train.engines import (
    DTYPES,
    Engines,
    deepspeed_settings,
    full_state,
    init_distributed,
    limit_waiting,
    resolve_precision,
)
from model.train.ranks import run_as_rank
from model.train.trainer import StopSignal, any_rank
from model.weights import load_tensors
from pipeline.dataset.reader import open_dataset

TUNE_FILE = "tune.json"
LOG_EVERY = 10


@dataclass
class TuneState:
    """What the schedule remembers: part of every checkpoint.

    ``best`` is the least validation loss and ``best_epoch`` when it was (-1: before the first); ``factor`` of the
    learning rates and ``waited`` epochs without a better loss; ``total`` and ``seen`` of the epoch's training loss.
    """

    start: float = 0.0
    best: float = 0.0
    best_epoch: int = -1
    factor: float = 1.0
    waited: int = 0
    total: float = 0.0
    seen: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)

    def validated(self, val_loss: float, patience: int) -> bool:
        """Take in the validation loss of a finished epoch; return whether it is the best so far."""
        self.losses.append((self.total / max(self.seen, 1), val_loss))
        self.total, self.seen = 0.0, 0
        if val_loss < self.best:
            self.best, self.best_epoch, self.waited = val_loss, len(self.losses) - 1, 0
            return True
        self.waited += 1
        if self.waited > patience:
            self.factor, self.waited = self.factor / 2, 0
        return False


def main(arguments: list[str] | None = None) -> int:
    """Run one rank; return its exit code."""
    parser = argparse.ArgumentParser(description="One rank of a fine-tuning; started by `marlin adapt`.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    return run_as_rank(folder, lambda: run_rank(read_job(folder), folder), memory_cure="lower finetune.batch_size")


def run_rank(job: FinetuneJob, folder: Path) -> ExitStatus:
    """Build, resume if there is something to resume, train, leave the result. Collective."""
    stop = StopSignal()
    stop.install()
    device = init_distributed()
    rank, world = dist.get_rank(), dist.get_world_size()
    choice, cfg = open_encoder(job.cfg), job.cfg.finetune
    if job.init == "random":
        choice = choice.at_random(job.cfg.seed)
    classifier = Classifier(choice.build(), job.scale.from_label(head_of(load_tensors(folder / HEAD_FILE))))
    engines, rates = build_engine(classifier, job, device, world)
    seed_everything(job.cfg.seed, rank)
    reader = open_dataset(job.cfg.data.dataset, job.version)
    pixels = ClipPixels(reader, VARIANTS[job.variants], job.image_size, job.cfg.seed)
    stream = SampleStream(pixels, job.train, job.cfg.seed)
    loader = ClipLoader(
        stream, cfg.batch_size, rank=rank, world=world, workers=cfg.workers, pin_memory=device.type == "cuda"
    )
    tuner = Tuner(job, folder, engines, rates, loader, stream, pixels, open_metrics(folder, enabled=rank == 0), stop)
    try:
        tuner.resume(load_checkpoint(folder, engines, config_digest=job.digest))
        with Progress(
            "fine-tune", job.steps, unit="step", folder=folder, initial=tuner.step, enabled=rank == 0
        ) as progress:
            return tuner.train(progress)
    finally:
        loader.close()
        tuner.sink.close()


def build_engine(
    classifier: Classifier, job: FinetuneJob, device: torch.device, world: int
) -> tuple[Engines, list[float]]:
    """Wrap the classifier, one parameter group a layer; return the engine and each group's learning rate. Collective.

    Raises:
        ConfigError: the batch cannot be shared by the ranks.
    """
    import deepspeed

    cfg = job.cfg.finetune
    if cfg.batch_size % world:
        raise ConfigError(
            f"finetune.batch_size {cfg.batch_size} cannot be shared by {world} ranks; take a multiple of it"
        )
    classifier.to(device)
    groups = layer_groups(classifier, cfg.lr, cfg.layer_decay, cfg.head_lr)
    parameters = [{"params": group.parameters, "lr": group.lr} for group in groups]
    optimizer = torch.optim.Adam(parameters, betas=cfg.betas, fused=True)
    precision = resolve_precision(cfg.precision)
    settings = deepspeed_settings(cfg.batch_size // world, 1, world, precision, cfg.zero_stage)
    engine, *_ = deepspeed.initialize(model=classifier, optimizer=optimizer, config=settings)
    limit_waiting()
    return Engines(engine, None, device, DTYPES[precision], 1), [group.lr for group in groups]


@dataclass
class Tuner:
    """One rank's side of a fine-tuning."""

    job: FinetuneJob
    folder: Path
    engines: Engines
    rates: list[float]
    loader: ClipLoader
    stream: SampleStream
    pixels: ClipPixels
    sink: MetricSink
    stop: StopSignal
    step: int = 0
    state: TuneState = field(default_factory=TuneState)

    def __post_init__(self) -> None:
        self._targets = self.stream.targets()
        weights_K = self.job.weights_K
        self._weights_K = None if weights_K is None else torch.tensor(weights_K, device=self.engines.device)

    def resume(self, saved: TrainState | None) -> None:
        """Go on from a checkpoint; None begins, with the validation loss of the start. Collective."""
        if saved is None:
            self.state.start = self.state.best = self.validation_loss()
            return
        self.step = saved.step
        self.loader.load_state_dict(saved.data)
        told = json.loads((self.folder / FOLDER / f"step-{saved.step:06d}" / TUNE_FILE).read_text())
        told["losses"] = [tuple(pair) for pair in told["losses"]]
        self.state = TuneState(**told)

    def train(self, progress: Progress) -> ExitStatus:
        """Run to the last step or until a signal. Collective.

        Raises:
            TrainingError: the loss is not finite; raised on all ranks.
        """
        cfg, engine = self.job.cfg.finetune, self.engines.generator
        epoch = len(self.state.losses)
        while self.step < self.job.steps:
            batch = next(self.loader).to(self.engines.device)
            for group, rate in zip(engine.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.state.factor
            loss = self._loss(engine(batch.clip_BTHWC), batch.keys)
            mean_loss = self._mean(loss)
            if not mean_loss < float("inf"):
                raise TrainingError(
                    f"fine-tuning diverged in epoch {epoch + 1}: the loss is {mean_loss}; lower finetune.lr ({cfg.lr}) "
                    f"and finetune.head_lr ({cfg.head_lr})"
                )
            engine.backward(loss)
            engine.step()
            self.step += 1
            self.state.total, self.state.seen = self.state.total + mean_loss, self.state.seen + 1
            progress.update(1, note=f"epoch {epoch + 1}/{cfg.epochs}, loss {mean_loss:.3f}")
            if self.step % LOG_EVERY == 0:
                self.sink.log(self.step, {"loss/train": mean_loss, "lr": cfg.lr * self.state.factor})
            stopping = any_rank(self.stop.is_set, self.engines.device)
            at_end = self.step % self.job.epoch_steps == 0
            if at_end:
                epoch += 1
                self._end_epoch()
            if at_end or stopping or self.step % cfg.checkpoint_every == 0:
                self._save()
            if stopping and self.step < self.job.steps:
                return ExitStatus.PREEMPTED
        if dist.get_rank() == 0:
            result = FinetuneResult(tuple(self.state.losses), self.state.start, self.state.best_epoch)
            temporary = self.folder / f"{RESULT_FILE}.tmp"
            temporary.write_bytes(RESULT.dump_json(result))
            temporary.replace(self.folder / RESULT_FILE)
        return ExitStatus.DONE

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the mean loss over the validation samples, each rank having a share of the windows. Collective."""
        engine, device, share = (
            self.engines.generator,
            self.engines.device,
            self.job.val[dist.get_rank() :: dist.get_world_size()],
        )
        engine.module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for samples in self.pixels.iter_samples(draws_of(share)):
            clip_BTHWC = torch.stack([torch.from_numpy(s.frames_THWC) for s in samples]).to(device)
            targets_BJ = self.job.scale.learnt([s.target for s in samples]).to(device)
            loss = task_loss(self.job.kind, engine.module(clip_BTHWC), targets_BJ, self._weights_K)
            sums += torch.tensor([float(loss) * len(samples), len(samples)], dtype=torch.float64, device=device)
        engine.module.train()
        dist.all_reduce(sums)
        return float(sums[0] / sums[1])

    def _loss(self, logits_BK: Tensor, keys: tuple[str, ...]) -> Tensor:
        targets_BJ = self.job.scale.learnt([self._targets[key] for key in keys]).to(self.engines.device)
        return task_loss(self.job.kind, logits_BK, targets_BJ, self._weights_K)

    def _mean(self, loss: Tensor) -> float:
        """Mean over ranks: the same number everywhere, so that all decide alike."""
        value = loss.detach().double().reshape(1)
        dist.all_reduce(value)
        return float(value) / dist.get_world_size()

    def _end_epoch(self) -> None:
        val_loss = self.validation_loss()
        self.sink.log(self.step, {"loss/validation": val_loss})
        if self.state.validated(val_loss, self.job.cfg.finetune.patience):
            state = full_state(self.engines.generator)
            if dist.get_rank() == 0:
                temporary = self.folder / f"{BEST_FILE}.tmp.safetensors"
                save_file(state, str(temporary))
                temporary.replace(self.folder / BEST_FILE)
            dist.barrier()

    def _save(self) -> None:
        saved = TrainState(self.step, self.loader.state_dict(), self.job.digest, dist.get_world_size())
        save_checkpoint(self.folder, self.engines, saved, keep_last=2, add=self._write_state)

    def _write_state(self, folder: Path) -> None:
        if dist.get_rank() == 0:
            (folder / TUNE_FILE).write_text(json.dumps(asdict(self.state)))


if __name__ == "__main__":
    raise SystemExit(main())
