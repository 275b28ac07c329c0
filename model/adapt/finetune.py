"""Fine-tuning: encoder and head trained together, the head starting from the linear probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from infra.errors import TrainingError
from infra.progress import Progress
from model.adapt.detector import Detector
from model.adapt.pixels import ClipPixels, Sample
from model.adapt.samples import Draw, Window, draws_of
from model.adapt.sanity import OverfitCheck, overfit_one_batch
from model.adapt_config import FinetuneConfig


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """Losses of each epoch (train, validation) and the epoch kept; -1 keeps the start, the linear probe itself."""

    losses: tuple[tuple[float, float], ...]
    start_val_loss: float
    best_epoch: int
    overfit: OverfitCheck | None


def finetune(
    detector: Detector,
    pixels: ClipPixels,
    train: Sequence[Window],
    val: Sequence[Window],
    cfg: FinetuneConfig,
    *,
    device: torch.device,
    seed: int,
) -> FinetuneResult:
    """Train ``detector`` in place and leave it at the epoch with the least validation loss.

    Every epoch draws new self-blends; a window's real and fake sample are always in one batch, which keeps batches
    balanced. Starting from a trained head keeps the first steps from spoiling the encoder (Kumar et al., "Fine-Tuning
    can Distort Pretrained Features", 2022).

    Raises:
        TrainingError: the loss is no longer finite, or the overfit check fails.
    """
    detector.to(device)
    val_samples = [sample for samples in pixels.iter_samples(draws_of(val)) for sample in samples]
    overfit = None
    if cfg.overfit_check_steps:
        overfit = _check_overfit(detector, pixels, train, cfg, device)
    optimizer = _optimizer(detector, cfg)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=cfg.patience)
    start_val_loss = _validation_loss(detector, val_samples, cfg.batch_size, device)
    best, best_epoch, best_state = start_val_loss, -1, _copied(detector)
    losses: list[tuple[float, float]] = []
    with Progress("fine-tune", cfg.epochs * len(train) * pixels.samples_per_draw, unit="clip") as progress:
        for epoch in range(cfg.epochs):
            order = np.random.default_rng([seed, epoch]).permutation(len(train))
            detector.train()
            total, seen = 0.0, 0
            for batch in _batches(pixels, [train[i] for i in order], epoch + 1, cfg.batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss = _loss(detector, batch, device)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"fine-tuning diverged in epoch {epoch + 1}: the loss is {float(loss.detach())}; "
                        f"lower finetune.lr ({cfg.lr}) and finetune.head_lr ({cfg.head_lr})"
                    )
                loss.backward()
                optimizer.step()
                total, seen = total + float(loss.detach()) * len(batch), seen + len(batch)
                progress.update(len(batch), note=f"epoch {epoch + 1}/{cfg.epochs}, loss {total / seen:.3f}")
            val_loss = _validation_loss(detector, val_samples, cfg.batch_size, device)
            schedule.step(val_loss)
            losses.append((total / seen, val_loss))
            if val_loss < best:
                best, best_epoch, best_state = val_loss, epoch, _copied(detector)
    detector.load_state_dict(best_state)
    return FinetuneResult(tuple(losses), start_val_loss, best_epoch, overfit)


def detector_scores(
    detector: Detector, pixels: ClipPixels, windows: Sequence[Window], *, batch: int, device: torch.device
) -> np.ndarray:
    """Return the probability of "fake" of every sample of ``windows`` (blend number 0), float64 (N,)."""
    detector.eval().to(device)
    scores: list[np.ndarray] = []
    with Progress("test", len(windows) * pixels.samples_per_draw, unit="clip") as progress:
        for samples in _batches(pixels, windows, 0, batch):
            with torch.inference_mode():
                scores.append(torch.sigmoid(detector(_clip(samples, device))).double().cpu().numpy())
            progress.update(len(samples))
    return np.concatenate(scores)


def _optimizer(detector: Detector, cfg: FinetuneConfig) -> torch.optim.Adam:
    groups = [
        {"params": detector.encoder.parameters(), "lr": cfg.lr},
        {"params": detector.head.parameters(), "lr": cfg.head_lr},
    ]
    return torch.optim.Adam(groups, betas=cfg.betas)


def _check_overfit(
    detector: Detector, pixels: ClipPixels, train: Sequence[Window], cfg: FinetuneConfig, device: torch.device
) -> OverfitCheck:
    """Run the check and put the weights back: it must not be a head start on one batch."""
    batch = next(_batches(pixels, train, 0, cfg.batch_size))
    state = _copied(detector)
    detector.train()
    try:
        return overfit_one_batch(
            lambda: _loss(detector, batch, device), _optimizer(detector, cfg), cfg.overfit_check_steps
        )
    finally:
        detector.load_state_dict(state)


def _batches(pixels: ClipPixels, windows: Sequence[Window], number: int, size: int) -> Iterator[list[Sample]]:
    """Yield lists of about ``size`` samples; the samples of one window stay together."""
    waiting: list[Sample] = []
    for samples in pixels.iter_samples(Draw(window, number) for window in windows):
        waiting += samples
        if len(waiting) >= size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _clip(samples: Sequence[Sample], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([s.frames_THWC for s in samples])).to(device)


def _loss(detector: Detector, samples: Sequence[Sample], device: torch.device) -> Tensor:
    labels_B = torch.tensor([s.label for s in samples], dtype=torch.float32, device=device)
    return binary_cross_entropy_with_logits(detector(_clip(samples, device)), labels_B)


@torch.no_grad()
def _validation_loss(detector: Detector, samples: Sequence[Sample], batch: int, device: torch.device) -> float:
    detector.eval()
    total = 0.0
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        total += float(_loss(detector, part, device)) * len(part)
    return total / len(samples)


def _copied(detector: Detector) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in detector.state_dict().items()}
