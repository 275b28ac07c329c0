"""Settings of pretraining: one frozen tree. What can be checked without a device or a dataset is checked here."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from infra.config import BaseConfig

MaskStrategy = Literal["fasking", "fasking_opposite", "random", "tube", "frame"]
Precision = Literal["fp32", "bf16", "fp16"]


class ModelChoice(BaseConfig):
    """Which network is trained."""

    name: str = "marlin_vit_base"
    """A size known to ``model.nets.config.model_config``: marlin_vit_tiny, _small, _base, _large, _huge."""
    overrides: dict[str, int | float | bool] = {}
    """Fields of ModelConfig to change, e.g. ``image_size: 112``; a changed network is no longer a released size."""


class DataConfig(BaseConfig):
    """What is read."""

    dataset: str = "dataset"
    """Folder or s3://bucket/prefix of the dataset."""
    version: int | None = Field(default=None, ge=1)
    """Dataset version; None takes the newest when the run starts, and a resumed run keeps that one."""
    split: Literal["train", "val", "test"] = "train"
    """Split that is trained on."""
    val_split: Literal["train", "val", "test"] = "val"
    """Split on which the reconstruction loss is measured; a split without clips is left out, with a warning."""
    val_clips: int = Field(default=64, ge=0)
    """Most clips of the validation split that are used, always the same ones; 0 measures none."""
    workers: int = Field(default=2, ge=1, le=128)
    """Threads per rank that read and decode clips."""
    read_ahead: int = Field(default=2, ge=1, le=64)
    """Batches per rank made in advance; each holds ~2.4 MB a clip at 224 pixels."""
    cache_mb: int = Field(default=0, ge=0)
    """MB (10^6 bytes) of decoded clips that each rank keeps in memory; pays where they hold a good part of the dataset
    (64 frames take 10 MB at 224 pixels). What is read does not depend on it."""
    shuffle_shards: int = Field(default=16, ge=1)
    """Shards whose clips are mixed with each other (W); larger mixes better and keeps more shards open."""
    flip: bool = False
    """Mirror half of the clips; off in the paper. Regions are mirrored along, sides swapped."""
    read_attempts: int = Field(default=4, ge=1)
    """Times a failing read is tried before it stops the run; a clip is never skipped."""


class MaskConfig(BaseConfig):
    """Which tokens are hidden."""

    strategy: MaskStrategy = "fasking"
    """Fasking hides facial components first; the others are for ablation."""
    ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of the tokens hidden; int(L · (1 − ratio)) stay visible."""


class OptimConfig(BaseConfig):
    """AdamW for both engines, linear warm-up from 0, then a cosine. Schedules count clips seen."""

    base_lr: float = Field(default=1.5e-4, gt=0)
    """Learning rate per 256 clips of global batch; the peak is base_lr · global_batch / 256."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Where the cosine ends, likewise per 256 clips."""
    discriminator_lr_scale: float = Field(default=1.0, gt=0)
    """The discriminator's learning rate over the generator's."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's two moments."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; 0 in the released recipe."""
    total_clips: int = Field(default=2_593 * 2_000, ge=1)
    """Length of the run in clips seen; the released recipe sees 2,593 clips 2,000 times."""
    warmup_clips: int = Field(default=2_593 * 40, ge=0)
    """Clips over which the learning rate rises."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_clips >= self.total_clips:
            raise ValueError(
                f"warmup_clips ({self.warmup_clips}) must be less than total_clips ({self.total_clips}); "
                "lower the first or raise the second"
            )
        if self.min_lr > self.base_lr:
            raise ValueError(f"min_lr ({self.min_lr}) must not exceed base_lr ({self.base_lr})")
        return self


class AdversarialConfig(BaseConfig):
    """The discriminator's part."""

    enabled: bool = True
    """False trains by reconstruction alone (the VideoMAE rows of the ablation); no discriminator is built."""
    weight: float = Field(default=0.01, ge=0)
    """Weight of the adversarial term in the generator's loss."""
    gp_weight: float = Field(default=0.0, ge=0)
    """Weight of the gradient penalty; 0 in the released configs, 10 in the code's default."""
    d_steps: int = Field(default=1, ge=1, le=16)
    """Discriminator updates per generator update, all on the same batch."""


class CheckpointConfig(BaseConfig):
    """When a run is saved."""

    every_steps: int = Field(default=1000, ge=1)
    """Steps between checkpoints; the last step and a SIGTERM are saved too."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints kept; with 1, a damaged newest one leaves nothing to fall back to."""


class PretrainConfig(BaseConfig):
    """Settings of ``marlin pretrain``."""

    model: ModelChoice = ModelChoice()
    """Which network."""
    data: DataConfig = DataConfig()
    """What is read."""
    mask: MaskConfig = MaskConfig()
    """Which tokens are hidden."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    adversarial: AdversarialConfig = AdversarialConfig()
    """The discriminator's part."""
    global_batch: int = Field(default=64, ge=1)
    """Clips per optimiser step over all ranks; it decides the learning rate, not the memory."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Clips per rank that pass the network at once; smaller needs less memory and more time (gradient
    accumulation). None takes the rank's whole share."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto`` takes bf16 on a GPU and fp32 on a CPU, where bf16 is emulated and 5 to 37 times slower."""
    zero_stage: Literal[1, 2] = 1
    """DeepSpeed's partitioning: 1 shares optimiser state over ranks, 2 gradients too."""
    world_size: int | None = Field(default=None, ge=1)
    """Ranks on this machine; None takes all GPUs, or 2 on a CPU (1 when the batch is odd)."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run is saved."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of metrics."""
    picture_every: int = Field(default=0, ge=0)
    """Steps between validations with a picture of reconstructed clips; 0 makes them at the end only."""
    max_skipped: int = Field(default=20, ge=1)
    """Steps in a row that may be skipped for a loss that is not finite; then the run has diverged."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, clip order, windows and masks."""
    init_from: str | None = None
    """Weight file or run folder to start from; None starts at random."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; the last one is always a full batch."""
        return -(-self.optim.total_clips // self.global_batch)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.world_size is not None:
            self.share(self.world_size)
        return self

    def share(self, world: int) -> tuple[int, int]:
        """Return (micro-batch, accumulation) of each of ``world`` ranks.

        Raises:
            ValueError: the global batch is not micro_batch × ranks × a whole number; the sentence names the cure.
        """
        if self.global_batch % world:
            raise ValueError(
                f"global_batch {self.global_batch} cannot be shared by {world} ranks; "
                f"take {max(self.global_batch // world, 1) * world} or {(self.global_batch // world + 1) * world}"
            )
        share = self.global_batch // world
        micro = self.micro_batch or share
        if share % micro:
            divisors = ", ".join(str(n) for n in range(1, share + 1) if share % n == 0)
            raise ValueError(
                f"micro_batch {micro} does not divide the {share} clips that each of {world} ranks has; "
                f"take one of {divisors}"
            )
        return micro, share // micro
