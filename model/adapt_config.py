"""Settings of adaptation: a pretrained encoder and a dataset version in, a measured classifier out."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from infra.config import BaseConfig
from model.train_config import Beta
from pipeline.config import EmbeddedFaces, Faces, LimitConfig, TrackConfig


class AdaptDataConfig(BaseConfig):
    """Which clips are used, where the fakes come from, and how training and test are kept apart."""

    dataset: str = ""
    """Folder or s3://bucket/prefix of the dataset."""
    version: int | None = Field(default=None, ge=1)
    """Dataset version; None takes the newest."""
    labels: str = ""
    """Task custom: a csv with a column ``path`` and label columns (``model.adapt.custom``)."""
    kind: Literal["binary", "multiclass", "multilabel", "regression"] | None = None
    """Task custom: what the labels are; None sees it from the csv."""
    where: dict[str, str] = {}
    """Take only clips whose labels have these values, e.g. ``{compression: c23}``."""
    allow_partial: bool = False
    """Leave out clips without label, labels without clip and labels that cannot be meant, and count them; False
    refuses them."""
    fakes: Literal["auto", "self_blend", "labels"] = "auto"
    """Task deepfake: ``labels`` reads each clip's label ``real`` or ``fake``; ``self_blend`` makes a fake of every real
    clip; ``auto`` takes labels where the version holds both."""
    manipulation: str = ""
    """Task deepfake: train and test on the fakes of this method alone, e.g. ``FaceSwap``; empty takes all."""
    held_out_manipulation: str = ""
    """Task deepfake: test on the fakes of this method alone and train on those of all others (cross-manipulation)."""
    draws: int = Field(default=1, ge=1, le=64)
    """Self-blends of each training and validation window that the linear probe sees; testing always uses one."""
    max_windows: int = Field(default=0, ge=0)
    """Most windows taken from the dataset, spread evenly over its clips; 0 takes all."""
    windows_per_clip: int = Field(default=2, ge=1, le=64)
    """Windows of 16 frames (at stride 2) taken from one clip, evenly spread over its frames; two cover a clip of 64
    frames without gap or overlap, so a video's score comes from sliding windows over all of it."""
    split: Literal["auto", "manifest", "video", "time"] = "auto"
    """``manifest`` uses the dataset's own train/val/test; ``video`` holds out whole videos (whole people where they
    are known); ``time`` cuts each person's videos (each video, where people are unknown) at one frame number into an
    earlier and a later part; ``auto`` takes the first that works."""
    min_groups: int = Field(default=8, ge=2)
    """Fewest videos (or people) for which ``auto`` holds out whole videos; below it, time is split."""
    test_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Share of the groups, or of each person's time, that is tested on."""
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the rest that chooses the best epoch and drives the plateau schedule."""
    gap_frames: int = Field(default=32, ge=0)
    """Frames of one video left unused between two sides of a time split; neighbouring frames are near copies."""

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.manipulation and self.held_out_manipulation:
            raise ValueError("manipulation and held_out_manipulation exclude each other; leave one of them empty")
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError(
                f"test_fraction {self.test_fraction} and val_fraction {self.val_fraction} leave nothing to train on; "
                "lower one of them"
            )
        return self


class ProbeConfig(BaseConfig):
    """Linear probe on frozen pooled features, as in the paper, but full batch: the features are computed once."""

    epochs: int = Field(default=2000, ge=1)
    """Passes over the training features; one optimiser step each, and the best of them is kept. Pretrained features lie
    near few directions, which takes them longer than features of a random encoder; an epoch takes about a ms."""
    lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate. The released 1e-4 is for hundreds of steps an epoch; here an epoch is one step."""
    betas: tuple[Beta, Beta] = (0.5, 0.9)
    """Adam's betas."""
    patience: int = Field(default=100, ge=1)
    """Epochs without a better validation loss before the learning rate is halved. The released 7 is for epochs of
    hundreds of steps: with one step an epoch it froze probes on pretrained features before they had learnt anything."""
    standardise: bool = True
    """Bring each feature to mean 0 and standard deviation 1 with the training side's statistics (folded into the
    head afterwards). Pooled features differ by orders of magnitude between dimensions; without it Adam crawls."""


class FinetuneConfig(BaseConfig):
    """Fine-tuning of encoder and head with DeepSpeed, the head starting from the linear probe."""

    enabled: bool = True
    """False trains the linear probe only."""
    epochs: int = Field(default=10, ge=1)
    """Passes over the training clips; self-blends are drawn anew in each."""
    batch_size: int = Field(default=8, ge=1)
    """Samples a step over all ranks (a real and its fake count as two)."""
    lr: float = Field(default=1e-4, gt=0)
    """Adam's learning rate of the encoder's last block."""
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    """Learning rate of a block over that of the next one (VideoMAE's recipe); 1 trains all alike, as the paper does."""
    head_lr: float = Field(default=1e-3, gt=0)
    """Adam's learning rate of the head."""
    betas: tuple[Beta, Beta] = (0.5, 0.9)
    """Adam's betas."""
    patience: int = Field(default=7, ge=1)
    """Epochs without a better validation loss before learning rates are halved."""
    checkpoint_every: int = Field(default=200, ge=1)
    """Steps between checkpoints; the end of an epoch, the last step and a SIGTERM are saved too."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """``auto`` takes bf16 on a GPU and fp32 on a CPU."""
    zero_stage: Literal[1, 2] = 1
    """DeepSpeed's partitioning: 1 shares optimiser state over ranks, 2 gradients too."""
    world_size: int = Field(default=0, ge=0)
    """Ranks; 0 takes all GPUs (the one that ``device=cuda:N`` names), or 1 on a CPU."""
    workers: int = Field(default=2, ge=1, le=128)
    """Threads per rank that read and decode clips."""


class FewShotConfig(BaseConfig):
    """Training on a share of the labels (the paper's few-shot table); the whole is always trained on, too."""

    fractions: tuple[float, ...] = ()
    """Shares of the labelled training subjects, each in (0, 1), e.g. ``[0.01, 0.1, 0.5]``."""
    seeds: int = Field(default=3, ge=1, le=100)
    """Subsets drawn for each share; the table has their mean and standard deviation."""
    finetune: bool = False
    """Fine-tune on every subset, too; otherwise only the linear probe is trained on it."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if wrong := [share for share in self.fractions if not 0 < share < 1]:
            raise ValueError(f"fractions must lie between 0 and 1, and {wrong[0]} does not; 1 is always trained")
        return self


class AdaptConfig(BaseConfig):
    """Settings of ``marlin adapt TASK``. The size of the encoder is read from the weights."""

    task: str = ""
    """What to adapt to: deepfake, appearance, action, emotion, sentiment7, sentiment2 or custom (labels from a csv)."""
    weights: str = ""
    """Pretrained weights: ``weights.safetensors``, a run folder that holds it, or another supported file."""
    model: str = ""
    """Size that the weights must have, e.g. ``marlin_vit_base``; empty takes what they hold."""
    backbone: Literal["marlin", "r3d", "mvit_v1", "mvit_v2", "xception"] = "marlin"
    """``marlin`` is the encoder of ``weights``. The others are baselines from torchvision and timm: they start at
    random, or from a state dict of theirs that ``weights`` names."""
    data: AdaptDataConfig = AdaptDataConfig()
    """Clips, fakes and split."""
    probe: ProbeConfig = ProbeConfig()
    """Linear probe."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning."""
    few_shot: FewShotConfig = FewShotConfig()
    """Training on a share of the labels."""
    balanced: bool = True
    """Rare classes weigh as much as common ones in the loss, for the tasks that ask for classes: deepfake, sentiment2
    and custom. Probabilities are then those of equally frequent classes, and ``ece`` measures them against the data's
    own frequencies. False trains on these, as the paper does."""
    baseline: bool = True
    """Also probe a randomly initialised encoder of the same size: what pretraining adds is the difference."""
    save_adapted: bool = True
    """Write ``adapted.safetensors``, which ``marlin predict`` takes: encoder and head, fine-tuned where that is on,
    else the encoder as it was with the probe's head."""
    bootstrap: int = Field(default=1000, ge=100)
    """Resamples behind each 95 % confidence interval."""
    feature_batch: int = Field(default=4, ge=1)
    """Windows a forward pass when features are computed."""
    cache: str = ""
    """Folder for computed features, shared between runs; empty keeps them in the run folder."""
    pictures: int = Field(default=6, ge=0, le=32)
    """Pairs of real and fake shown in ``pairs.png`` (made fakes alone)."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one (fine-tuning: all of them); else ``cpu``, or ``cuda:N`` for one GPU."""
    threads: int = Field(default=0, ge=0)
    """CPU threads of torch; 0 leaves its default."""
    seed: int = Field(default=0, ge=0)
    """Seed of the blends, the split, the random encoder and the training order."""

    @model_validator(mode="after")
    def _one_gpu(self) -> Self:
        if self.device.startswith("cuda:") and self.finetune.world_size > 1:
            raise ValueError(
                f"device={self.device} is one GPU and finetune.world_size={self.finetune.world_size} needs as many; "
                "set one of them alone"
            )
        return self


class PredictConfig(BaseConfig):
    """Settings of ``marlin predict VIDEO``."""

    video: str = ""
    """Any video; faces are followed through it."""
    weights: str = ""
    """``adapted.safetensors`` of ``marlin adapt``, or the folder of that run."""
    out: str = "predictions"
    """Folder that receives ``<stem>.json``, ``<stem>.png``, ``<stem>-annotated.mp4`` and, with ``explain``,
    ``<stem>-cam.png``."""
    annotate: bool = True
    """Write the video again with each face's box, number and scores; False saves its decoding and encoding."""
    explain: str = ""
    """Name of an output whose Grad-CAM is drawn over each face's highest-scoring window; empty draws none."""
    crop: Literal["auto", "face", "none"] = "auto"
    """As in ``marlin extract``: follow faces, take whole frames, or see which fits."""
    window_stride: int = Field(default=16, ge=1)
    """Distance between window starts in sampled frames (every second frame): 16 has windows side by side."""
    batch: int = Field(default=4, ge=1)
    """Windows a forward pass."""
    limits: LimitConfig = LimitConfig()
    """What the video may cost, as in ingestion; one that costs more is rejected."""
    faces: Faces = EmbeddedFaces()
    """Which detector follows the faces; another one than found those that were adapted on is warned of."""
    track: TrackConfig = TrackConfig()
    """Linking, smoothing and filtering of tracks; what is not given is as in the dataset that was adapted on."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one; else ``cpu`` or ``cuda:N``."""
