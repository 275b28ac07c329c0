"""Which encoder a run adapts, and all that is said of it: pretrained, random, or a baseline of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from infra.errors import WeightsError
from model.adapt.backbones import BACKBONES, FRAMES, build_backbone
from model.adapt.encoder import pretrained_encoder, random_encoder
from model.adapt_config import AdaptConfig
from model.licences import NOT_STATED, weight_licences
from model.nets.config import ModelConfig
from model.provenance import PRETRAINING, labels_behind
from model.weights import LoadedWeights, load_weights, weights_digest


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder's shape and origin; ``build`` makes it anew each time.

    ``init`` is ``pretrained`` or ``random`` (then of ``seed``). ``config`` is None for baselines, ``weights`` for what
    starts at random. ``digest`` is the weight file's sha256, empty without one. ``file`` is a baseline's state dict.
    ``licences`` are those of what it was trained with, ``provenance`` is what its file says of pretraining.
    """

    name: str
    init: str
    width: int
    frames: int
    image_size: int
    digest: str
    licences: tuple[str, ...]
    seed: int
    config: ModelConfig | None = None
    weights: LoadedWeights | None = None
    file: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Return the network: uint8 clips (B, T, H, W, 3) → features (B, width)."""
        if self.weights is not None:
            return pretrained_encoder(self.weights)
        if self.config is not None:
            return random_encoder(self.config, self.seed)
        return build_backbone(self.name, self.file, self.seed)

    def at_random(self, seed: int) -> EncoderChoice:
        """Return the same network without its weights: what pretraining is compared with."""
        return replace(
            self, init="random", digest="", licences=(), seed=seed, weights=None, file="", provenance={}
        )  # fmt: skip


def open_encoder(cfg: AdaptConfig) -> EncoderChoice:
    """Return the encoder that the settings name; its size comes from the weights.

    Raises:
        WeightsError: the file cannot be read, holds another size than ``cfg.model``, or an encoder that learnt labels,
            those of what is tested here perhaps.
    """
    if cfg.backbone != "marlin":
        made = BACKBONES[cfg.backbone]
        digest = weights_digest(cfg.weights) if cfg.weights else ""
        init, licences = ("pretrained", (made.licence, NOT_STATED)) if cfg.weights else ("random", (made.licence,))
        return EncoderChoice(
            cfg.backbone, init, made.width, FRAMES, made.image_size, digest, licences, cfg.seed, file=cfg.weights
        )
    weights = load_weights(cfg.weights, cfg.model or None)
    shape, told = weights.config, _pretraining(cfg.weights, weights.provenance)
    return EncoderChoice(
        shape.name, "pretrained", shape.encoder_dim, shape.frames, shape.image_size, weights.digest,
        weight_licences(told), cfg.seed, config=shape, weights=weights, provenance=told,
    )  # fmt: skip


def _pretraining(path: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a file says of pretraining, also a file of a probe, which leaves the encoder as it was."""
    refuse_learnt_labels(path, told)
    pretraining = told.get(PRETRAINING)
    return pretraining if isinstance(pretraining, Mapping) else told


def refuse_learnt_labels(path: str, told: Mapping[str, Any]) -> None:
    """Raise WeightsError where the encoder of a file, which says ``told`` of itself, has learnt labels."""
    if labels := labels_behind(told):
        began = told.get("pretrained_weights")  # not init_from: that is where its pretraining began
        raise WeightsError(
            f"{path} has learnt labels ({'; '.join(labels)}), so a test here might ask for what it was shown; name the "
            f"pretrained weights that it began with{f' ({began})' if began else ''}"
        )
