"""Settings of adaptation: a pretrained encoder and a dataset version in, a measured detector out."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from infra.config import BaseConfig


class AdaptDataConfig(BaseConfig):
    """Which clips are used, where the fakes come from, and how training and test are kept apart."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    version: int | None = Field(default=None, ge=1)
    """Dataset version; None takes the newest."""
    fakes: Literal["auto", "self_blend", "labels"] = "auto"
    """``labels`` reads each clip's label ``real`` or ``fake``; ``self_blend`` makes a fake of every real clip;
    ``auto`` takes labels where the version holds both."""
    draws: int = Field(default=1, ge=1, le=64)
    """Self-blends of each training and validation window that the linear probe sees; testing always uses one."""
    max_windows: int = Field(default=256, ge=0)
    """Most windows taken from the dataset, spread evenly over its clips; 0 takes all."""
    windows_per_clip: int = Field(default=2, ge=1, le=64)
    """Windows of 16 frames taken from one clip, evenly spread over its frames."""
    split: Literal["auto", "manifest", "video", "time"] = "auto"
    """``manifest`` uses the dataset's own train/val/test; ``video`` holds out whole videos (whole people where they
    are known); ``time`` cuts each video into an earlier and a later part; ``auto`` takes the first that works."""
    min_groups: int = Field(default=8, ge=2)
    """Fewest videos (or people) for which ``auto`` holds out whole videos; below it, time is split."""
    test_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of the groups, or of each video's length, that is tested on."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rest that chooses the best epoch and drives the plateau schedule."""
    gap_frames: int = Field(default=32, ge=0)
    """Frames of one video left unused between two sides of a time split; neighbouring frames are near copies."""

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError(
                f"test_fraction {self.test_fraction} and val_fraction {self.val_fraction} leave nothing to train on; "
                "lower one of them"
            )
        return self


class ProbeConfig(BaseConfig):
    """Linear probe on frozen pooled features (METHOD section 9), full batch: the features are computed once."""

    epochs: int = Field(default=500, ge=1)
    """Passes over the training features; one optimiser step each."""
    lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate. METHOD's 1e-4 is for hundreds of steps an epoch; here an epoch is one step."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's betas."""
    patience: int = Field(default=7, ge=1)
    """Epochs without a better validation loss before the learning rate is halved."""
    standardise: bool = True
    """Bring each feature to mean 0 and standard deviation 1 with the training side's statistics (folded into the
    head afterwards). Pooled features differ by orders of magnitude between dimensions; without it Adam crawls."""


class FinetuneConfig(BaseConfig):
    """Fine-tuning of encoder and head, the head starting from the linear probe."""

    enabled: bool = True
    """False trains the linear probe only."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the training clips; self-blends are drawn anew in each."""
    batch_size: int = Field(default=8, ge=1)
    """Windows a step (a real and its fake count as two)."""
    lr: float = Field(default=1e-4, gt=0)
    """Adam's learning rate for the encoder."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate for the head."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's betas."""
    patience: int = Field(default=7, ge=1)
    """Epochs without a better validation loss before both learning rates are halved."""
    overfit_check_steps: int = Field(default=0, ge=0)
    """Steps of the check that one batch can be learnt by heart before training starts; 0 leaves it out."""


class AdaptConfig(BaseConfig):
    """Settings of ``marlin adapt TASK``. The size of the encoder is read from the weights."""

    task: str = ""
    """What to adapt to; this release has ``deepfake``."""
    weights: str = ""
    """Pretrained weights: ``weights.safetensors``, a run folder that holds it, or another supported file."""
    data: AdaptDataConfig = AdaptDataConfig()
    """Clips, fakes and split."""
    probe: ProbeConfig = ProbeConfig()
    """Linear probe."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning."""
    baseline: bool = True
    """Also probe a randomly initialised encoder of the same size: what pretraining adds is the difference."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamples behind the 95 % confidence interval."""
    feature_batch: int = Field(default=4, ge=1)
    """Windows a forward pass when features are computed."""
    cache: str = ""
    """Folder for computed features, shared between runs; empty keeps them in the run folder."""
    pictures: int = Field(default=6, ge=0, le=32)
    """Pairs of real and fake shown in ``pairs.png``."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one; else ``cpu`` or ``cuda:N``."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 leaves its default."""
    seed: int = Field(default=0, ge=0)
    """Seed of the blends, the split, the random encoder and the training order."""
