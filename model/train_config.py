"""Settings of pretraining: one frozen tree. What can be checked without a device or a dataset is checked here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.config import BaseConfig

MaskStrategy = Literal["fasking", "fasking_opposite", "random", "tube", "frame"]
Beta = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running mean Adam keeps at a step."""
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
    probe_clips: int = Field(default=64, ge=0)
    """Most clips of the validation split whose features are probed for collapse; 0 probes none."""
    check_mb: int = Field(default=200, ge=0)
    """MB (10^6 bytes) of shards whose sha256 is compared before ranks start; sizes of all are. The rest is checked clip
    by clip as it is read, and by ``marlin dataset verify``."""
    workers: int | None = Field(default=None, ge=1, le=128)
    """Threads per rank that read and decode clips, or processes; None takes 2 on a CPU, which computes besides, and on
    a GPU the cores that each rank of the machine has, at most 16."""
    processes: bool = False
    """Read in processes in place of threads. Threads hand out some hundreds of clips a second and rank, more cores or
    not; a GPU may take more. Each process holds a ``cache_mb`` of its own and ``read_ahead`` batches."""
    read_ahead: int = Field(default=2, ge=1, le=64)
    """Batches per rank made in advance; each holds ~2.4 MB a clip at 224 pixels."""
    cache_mb: int = Field(default=0, ge=0)
    """MB (10^6 bytes) of decoded clips that each rank keeps in memory; pays where they hold a good part of the dataset
    (64 frames take 10 MB at 224 pixels). What is read does not depend on it."""
    shuffle_shards: int = Field(default=16, ge=1)
    """Shards of a shuffle group, whose clips are mixed; larger mixes better and keeps more shards open."""
    flip: bool = False
    """Mirror half of the clips; off in the paper. Regions are mirrored along, sides swapped."""
    read_attempts: int = Field(default=4, ge=1)
    """Times a clip is read whose bytes are wrong, or that a disk refuses, before it stops the run; a clip is never
    skipped. A bucket's requests are repeated before that."""

    @model_validator(mode="after")
    def _validates_on_others(self) -> Self:
        if self.val_split == self.split and self.val_clips:
            raise ValueError(
                f"split and val_split are both '{self.split}', and clips that are trained on validate nothing; take "
                "another val_split, or val_clips=0"
            )
        return self


class MaskConfig(BaseConfig):
    """Which tokens are hidden."""

    strategy: MaskStrategy = "fasking"
    """Fasking hides facial components first; the others are for ablation."""
    ratio: float = Field(default=0.9, gt=0, lt=1)
    """Share of the tokens hidden; int(L · (1 − ratio)) stay visible."""
    decoder_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the hidden tokens that the decoder neither sees nor predicts, by VideoMAE V2's running cell; 0.5 saves
    a third of the arithmetic of ViT-B. 0, as in the paper, predicts all of them."""


class OptimConfig(BaseConfig):
    """AdamW for both engines, linear warm-up from 0, then a cosine. Schedules count clips seen."""

    base_lr: float = Field(default=1.5e-4, gt=0)
    """Learning rate per 256 clips of global batch; the peak is base_lr · global_batch / 256."""
    min_lr: float = Field(default=1e-5, ge=0)
    """Where the cosine ends, likewise per 256 clips."""
    discriminator_lr_scale: float = Field(default=1.0, gt=0)
    """The discriminator's learning rate over the generator's."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
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
    """Discriminator updates per batch."""
    g_steps: int = Field(default=1, ge=1, le=16)
    """Generator updates per batch, after the discriminator's; each beyond the first costs a forward more."""


class CheckpointConfig(BaseConfig):
    """When a run is saved."""

    every_steps: int = Field(default=1000, ge=1)
    """Steps between checkpoints, each after a validation; the last step and a SIGTERM are saved too."""
    every_minutes: float | None = Field(default=30, gt=0)
    """Minutes after the last checkpoint at which one is written besides, without a validation: the most work that a
    death costs, however long a step takes. None counts steps alone."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints kept; with 1, a damaged newest one leaves nothing to fall back to."""
    keep_best: int = Field(default=1, ge=0)
    """Checkpoints kept besides for having the least validation loss."""


class LaunchConfig(BaseConfig):
    """Where the ranks run, and what happens when one dies."""

    nodes: int = Field(default=1, ge=1)
    """Machines. Each is given the same command, and all see the run folder and the dataset under the same path."""
    rendezvous: str | None = Field(default=None, pattern=r"^[^\s:/]+:\d{1,5}$")
    """``host:port`` of one of the machines, where they meet. The port is unauthenticated: keep the network private."""
    node_rank: int | None = Field(default=None, ge=0)
    """Number of this machine, 0 to nodes − 1; machine 0 owns the run folder. None reads NODE_RANK, SLURM_NODEID or
    JOB_COMPLETION_INDEX from the environment."""
    max_restarts: int = Field(default=3, ge=0)
    """How often all ranks are started again from the newest checkpoint after one died, before the command gives up."""
    ray_gpus: int | None = Field(default=None, ge=0)
    """Run on one machine of the Ray cluster at RAY_ADDRESS, with so many of its GPUs (0: CPUs alone); None: here."""

    @model_validator(mode="after")
    def _meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"{self.nodes} nodes need a place to meet; set launch.rendezvous=HOST:PORT to one of them")
        if self.nodes > 1 and self.ray_gpus is not None:
            raise ValueError("a run on Ray takes one machine of the cluster; set nodes=1, or leave ray_gpus out")
        if self.node_rank is not None and self.node_rank >= self.nodes:
            raise ValueError(f"node_rank {self.node_rank} is not below nodes ({self.nodes}); they count from 0")
        return self


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
    zero_stage: Literal[0, 1, 2] = 1
    """DeepSpeed's partitioning: 1 shares optimiser state over ranks, 2 gradients too, 0 nothing (fp32 only)."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more arithmetic."""
    compile: bool = False
    """Let ``torch.compile`` fuse the generator: 30 to 60 s at each start, and a C++ compiler on a CPU."""
    world_size: int | None = Field(default=None, ge=1)
    """Ranks on all machines together; None takes all GPUs, or 2 ranks a machine on CPUs (1 when the batch is odd)."""
    launch: LaunchConfig = LaunchConfig()
    """Where the ranks run."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the run is saved."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of metrics."""
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations; 0 validates before each checkpoint only."""
    picture_every: int = Field(default=0, ge=0)
    """Steps between pictures of reconstructed clips; 0 draws at the end only."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak of one device in the run's precision, in 10^12 FLOP/s, that MFU refers to; None measures what a large matrix
    product reaches when the run starts."""
    max_skipped: int = Field(default=20, ge=1)
    """Steps in a row that may be skipped for a loss that is not finite; then the run has diverged."""
    seed: int = Field(default=0, ge=0)
    """Seed of initial weights, clip order, windows and masks."""
    init_from: str | None = None
    """Weight file or run folder to start from; None starts at random."""

    def essence(self) -> dict[str, Any]:
        """Return the settings that decide what is learnt, as plain data; all others may change during a run."""
        return self.model_dump(mode="json", exclude=_FREE)

    @property
    def ranks_per_node(self) -> int:
        """Ranks of each machine, once ``world_size`` is decided."""
        return (self.world_size or self.launch.nodes) // self.launch.nodes

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; the last one is always a full batch."""
        return -(-self.optim.total_clips // self.global_batch)

    @field_validator("zero_stage", mode="before")
    @classmethod
    def _no_stage_3(cls, value: Any) -> Any:
        if value == 3:
            raise ValueError(
                "stage 3 is not offered: it cuts up weights, and those of the largest network are 2.8 GB (ADR 12); "
                "take 2, and activation_checkpointing=true where memory is short"
            )
        return value

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.world_size is not None:
            if self.world_size % self.launch.nodes:
                raise ValueError(
                    f"world_size {self.world_size} counts the ranks of all {self.launch.nodes} nodes and must be a "
                    f"multiple; take {(self.world_size // self.launch.nodes + 1) * self.launch.nodes}"
                )
            self.share(self.world_size)
        if self.zero_stage == 0 and self.precision in ("bf16", "fp16"):
            raise ValueError(f"zero_stage 0 keeps no fp32 masters for {self.precision}; take 1, or precision fp32")
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


_FREE: dict[str, Any] = {
    **dict.fromkeys(
        (
            "micro_batch", "activation_checkpointing", "compile", "world_size", "launch", "checkpoint", "log_every",
            "validate_every", "picture_every", "peak_tflops", "max_skipped",
        ),
        True,
    ),
    "data": {"workers", "processes", "read_ahead", "cache_mb", "read_attempts", "probe_clips", "check_mb"},
}  # fmt: skip
"""How a run is computed and watched, in pydantic's form of ``exclude``."""
