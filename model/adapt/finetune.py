"""Fine-tuning as a job in a folder of its own: written down, run by ranks with DeepSpeed, resumed after any end."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from infra.errors import ConfigError
from infra.progress import Progress
from model.adapt.classifier import Classifier
from model.adapt.encoder import head_of
from model.adapt.encoders import EncoderChoice
from model.adapt.files import replaced
from model.adapt.objective import TargetScale, class_weights, probabilities, target_scale
from model.adapt.pixels import ClipPixels
from model.adapt.plan import targets_of
from model.adapt.samples import Draw, Window
from model.adapt.split import Side
from model.adapt.task import Kind, TaskSpec
from model.adapt.variants import AsStored, SelfBlended, Variants
from model.adapt_config import AdaptConfig
from model.train.ranks import launch_ranks
from model.weights import load_tensors

_log = logging.getLogger(__name__)
JOB_FILE, HEAD_FILE, BEST_FILE, RESULT_FILE = "job.json", "head.safetensors", "best.safetensors", "result.json"
VARIANTS: dict[str, Variants] = {"labels": AsStored(), "self_blend": SelfBlended()}


@dataclass(frozen=True)
class FinetuneJob:
    """All that ranks need: settings, what is predicted, and the windows of two sides with their targets.

    ``init`` says whether the encoder starts from ``cfg.weights``, whose digest is ``weights_sha256``, or at random;
    ``weights_K`` are class weights;
    ``scale`` is that of the targets, in which ranks train: ``head.safetensors`` is in the label's unit,
    ``best.safetensors`` and the checkpoints are as learnt.
    """

    cfg: AdaptConfig
    version: int
    init: str
    kind: Kind
    width: int
    weights_K: tuple[float, ...] | None
    variants: str
    image_size: int
    train: tuple[Window, ...]
    val: tuple[Window, ...]
    scale: TargetScale = field(default_factory=TargetScale)
    weights_sha256: str = ""

    @property
    def digest(self) -> str:
        """Identity of the job: of its settings and windows.

        ``weights_K`` says what came of ``cfg.balanced``, a scale that changes nothing is left out, and the weights'
        digest is compared apart: jobs that were begun before there were these three go on.
        """
        scale: dict[str, bool] = {"scale": True} if self.scale == TargetScale() else {}
        tree = _JOB.dump_json(self, exclude={"cfg": {"balanced"}, "weights_sha256": True, **scale})
        return hashlib.sha256(tree).hexdigest()

    @property
    def samples(self) -> int:
        """Training samples of one epoch."""
        return len(self.train) * VARIANTS[self.variants].count

    @property
    def epoch_steps(self) -> int:
        """Optimiser steps of one epoch; what the last one lacks comes from the next epoch."""
        return -(-self.samples // self.cfg.finetune.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.cfg.finetune.epochs * self.epoch_steps


@dataclass(frozen=True)
class FinetuneResult:
    """Losses of each epoch (train, validation) and the epoch kept; -1 keeps the start, the linear probe itself."""

    losses: tuple[tuple[float, float], ...]
    start_val_loss: float
    best_epoch: int

    def kept_losses(self) -> tuple[float, float]:
        """Return the losses of the epoch that is kept; at the start there is no training loss yet, so the first one."""
        return self.losses[self.best_epoch] if self.best_epoch >= 0 else (self.losses[0][0], self.start_val_loss)


_JOB = TypeAdapter(FinetuneJob)
RESULT = TypeAdapter(FinetuneResult)


def make_job(
    cfg: AdaptConfig, task: TaskSpec, pixels: ClipPixels, choice: EncoderChoice, sides: Mapping[Side, Sequence[Window]]
) -> FinetuneJob:
    """Write down a fine-tuning of ``choice`` on the sides ``train`` and ``val``."""
    train, val = sides["train"], sides["val"]
    targets_NJ = np.array(targets_of(pixels.variants, train), np.float32)
    weights_K = class_weights(task, targets_NJ)
    return FinetuneJob(
        cfg=cfg, version=pixels.reader.version.version, init=choice.init, kind=task.kind, width=task.width,
        weights_K=None if weights_K is None else tuple(weights_K.tolist()), variants=pixels.variants.name,
        image_size=pixels.image_size, train=tuple(train), val=tuple(val), scale=target_scale(task, targets_NJ),
        weights_sha256=choice.digest,
    )  # fmt: skip


def read_job(folder: Path) -> FinetuneJob:
    """Return the job that a folder holds."""
    try:
        return _JOB.validate_json((folder / JOB_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{folder} holds no fine-tuning that can be read; remove the folder and run again") from error


def finetune(job: FinetuneJob, classifier: Classifier, folder: Path) -> FinetuneResult:
    """Train ``classifier`` in place and leave it at the epoch with the least validation loss.

    A job that was interrupted goes on from its last checkpoint; one that is finished is only read.

    Raises:
        ConfigError: the folder holds another job, or is in use.
        TrainingError: the loss is no longer finite, or a signal or a lost rank ended it; the same command goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / JOB_FILE).exists():
        if read_job(folder).digest != job.digest:
            raise ConfigError(f"{folder} holds a fine-tuning with other settings; take a new run folder")
        classifier.head = head_of(load_tensors(folder / HEAD_FILE))  # the start that the interrupted run had
    else:
        save_file(
            {f"head.{name}": value for name, value in classifier.head.state_dict().items()}, str(folder / HEAD_FILE)
        )
        with replaced(folder / JOB_FILE) as path:
            path.write_bytes(_JOB.dump_json(job))
    if not (folder / RESULT_FILE).exists():
        _launch(job, folder)
    result = RESULT.validate_json((folder / RESULT_FILE).read_bytes())
    if result.best_epoch >= 0:
        classifier.load_state_dict(load_tensors(folder / BEST_FILE))
        classifier.head = job.scale.to_label(classifier.head)
    return result


@torch.inference_mode()
def classifier_scores(
    task: TaskSpec,
    classifier: nn.Module,
    pixels: ClipPixels,
    windows: Sequence[Window],
    *,
    batch: int,
    device: torch.device,
) -> np.ndarray:
    """Return the scores of every sample of ``windows`` (draw 0), float64 (N, K)."""
    classifier.eval().to(device)
    scores: list[Tensor] = []
    waiting: list[np.ndarray] = []
    total = len(windows) * pixels.variants.count
    with Progress("test", total, unit="clip") as progress:
        for samples in pixels.iter_samples(Draw(window, 0) for window in windows):
            waiting += [sample.frames_THWC for sample in samples]
            if len(waiting) >= batch or len(waiting) + sum(map(len, scores)) == total:
                scores.append(
                    probabilities(task.kind, classifier(torch.from_numpy(np.stack(waiting)).to(device))).cpu()
                )
                progress.update(len(waiting))
                waiting = []
    return torch.cat(scores).numpy()


def _launch(job: FinetuneJob, folder: Path) -> None:
    environment, world = _devices(job.cfg)
    if job.cfg.threads:
        environment["OMP_NUM_THREADS"] = str(job.cfg.threads)
    again = "the same command with the same run folder"
    launch_ranks("model.adapt.worker", folder, "fine-tuning", again=again, world_size=world, env=environment)


def _devices(cfg: AdaptConfig) -> tuple[dict[str, str], int]:
    """Return the variables that give ranks their devices, and how many ranks there are."""
    wanted = cfg.finetune.world_size
    if cfg.device.startswith("cpu") or not torch.cuda.is_available():
        return {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}, wanted or 1
    if (number := torch.device(cfg.device.replace("auto", "cuda")).index) is None:
        return {"DS_ACCELERATOR": "cuda"}, wanted or torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return {"DS_ACCELERATOR": "cuda", "CUDA_VISIBLE_DEVICES": names[number] if any(names) else str(number)}, 1
