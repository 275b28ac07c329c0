"""Linear probe: one linear layer on frozen pooled features, trained full batch, for every kind of task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import TrainingError
from infra.progress import Progress
from model.adapt.objective import class_weights, probabilities, start_bias, target_scale, task_loss
from model.adapt.task import Kind, TaskSpec
from model.adapt_config import ProbeConfig

_LEAST_STD = 1e-6


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A head for *raw* pooled features in the label's unit (standardisation folded in), and what training it gave.

    losses: of each epoch, (train, val); a regression's in squared standard deviations of its training targets.
    """

    head: nn.Linear
    losses: tuple[tuple[float, float], ...]
    best_epoch: int


def train_probe(
    task: TaskSpec,
    train_ND: np.ndarray,
    train_targets_NJ: np.ndarray,
    val_ND: np.ndarray,
    val_targets_NJ: np.ndarray,
    cfg: ProbeConfig,
    *,
    label: str = "linear probe",
    show: bool = True,
) -> ProbeResult:
    """Train a probe and keep the epoch with the least validation loss.

    Weights start at zero and the bias where it is best without them (``start_bias``): Adam moves it by little more than
    ``lr`` an epoch, too slowly to find how rare a label is. The result is a pure function of the features and the
    settings: the problem is convex and needs no random start.

    Args:
        task: what is predicted; it decides loss and class weights.
        train_ND: float32 pooled features (samples, feature width) to train on.
        train_targets_NJ: their targets (``model.adapt.task.Target``).
        val_ND: features that choose the epoch and drive the plateau schedule.
        val_targets_NJ: their targets.
        cfg: epochs, learning rate, schedule.
        label: name shown with the progress.
        show: whether progress is shown.

    Raises:
        TrainingError: features are not finite, or the same for every clip.
    """
    if not (np.isfinite(train_ND).all() and np.isfinite(val_ND).all()):
        raise TrainingError("features hold values that are not finite; the encoder's weights are damaged")
    mean_D, std_D = feature_statistics(train_ND) if cfg.standardise else _identity(train_ND.shape[1])
    if float(np.ptp(train_ND, axis=0).max()) < _LEAST_STD:
        raise TrainingError("every clip has the same features, so nothing can be told apart; check the weights")
    scale = target_scale(task, train_targets_NJ)
    x_ND, y_NJ = _standardised(train_ND, mean_D, std_D), scale.learnt(train_targets_NJ)
    val_x_ND, val_y_NJ = _standardised(val_ND, mean_D, std_D), scale.learnt(val_targets_NJ)
    weights_K = class_weights(task, train_targets_NJ)
    probe = nn.Linear(x_ND.shape[1], task.width)
    nn.init.zeros_(probe.weight)
    probe.bias.data.copy_(start_bias(task, train_targets_NJ, weights_K))
    optimizer = torch.optim.Adam(probe.parameters(), lr=cfg.lr, betas=cfg.betas)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=cfg.patience)
    losses: list[tuple[float, float]] = []
    best, best_epoch, best_state = float("inf"), 0, _copied(probe)
    with Progress(label, cfg.epochs, unit="epoch", enabled=show) as progress:
        for epoch in range(cfg.epochs):
            optimizer.zero_grad(set_to_none=True)
            loss = task_loss(task.kind, probe(x_ND), y_NJ, weights_K)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                val_loss = float(task_loss(task.kind, probe(val_x_ND), val_y_NJ, weights_K))
            schedule.step(val_loss)
            losses.append((float(loss.detach()), val_loss))
            if val_loss < best:
                best, best_epoch, best_state = val_loss, epoch, _copied(probe)
            progress.update(1, note=f"loss {losses[-1][0]:.3f}, validation {val_loss:.3f}")
    probe.load_state_dict(best_state)
    head = scale.to_label(fold_standardisation(probe, mean_D, std_D))
    return ProbeResult(head, tuple(losses), best_epoch)


def feature_statistics(features_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each feature, float64 (D,); a constant feature gets deviation 1."""
    mean_D, std_D = features_ND.mean(axis=0, dtype=np.float64), features_ND.std(axis=0, dtype=np.float64)
    return mean_D, np.where(std_D < _LEAST_STD, 1.0, std_D)


def fold_standardisation(probe: nn.Linear, mean_D: np.ndarray, std_D: np.ndarray) -> nn.Linear:
    """Return the linear layer that gives on raw features what ``probe`` gives on standardised ones.

    w·(x − mean)/std + b = (w/std)·x + (b − w·mean/std): one layer to store, and fine-tuning starts from it.
    """
    folded = nn.Linear(probe.in_features, probe.out_features)
    weight = probe.weight.detach().double() / torch.from_numpy(std_D)
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(probe.bias.double() - weight @ torch.from_numpy(mean_D))
    return folded


@torch.no_grad()
def head_scores(kind: Kind, head: nn.Linear, features_ND: np.ndarray) -> np.ndarray:
    """Return the scores of each row of pooled features, float64 (N, K) (``model.adapt.objective.probabilities``)."""
    return probabilities(kind, head(torch.from_numpy(features_ND))).numpy()


def _identity(width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(width), np.ones(width)


def _standardised(features_ND: np.ndarray, mean_D: np.ndarray, std_D: np.ndarray) -> Tensor:
    return torch.from_numpy(((features_ND - mean_D) / std_D).astype(np.float32))


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
