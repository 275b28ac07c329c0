"""Which encoder a run adapts, and all that is said of it: pretrained, random, or a baseline of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from infra.fetch import file_digest
from model.adapt.backbones import BACKBONES, FRAMES, build_backbone
from model.adapt.encoder import pretrained_encoder, random_encoder
from model.adapt_config import AdaptConfig
from model.nets.config import ModelConfig
from model.weights import LoadedWeights, load_weights


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder's shape and origin; ``build`` makes it anew each time.

    ``init`` is ``pretrained`` or ``random`` (then of ``seed``). ``config`` is None for baselines, ``weights`` for what
    starts at random. ``digest`` is the weight file's sha256, empty without one. ``file`` is a baseline's state dict.
    ``licences`` are those of what it was trained with.
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
        WeightsError: the file cannot be read, or holds another size than ``cfg.model``.
    """
    if cfg.backbone != "marlin":
        made = BACKBONES[cfg.backbone]
        digest = file_digest(Path(cfg.weights)) if cfg.weights else ""
        init = "pretrained" if cfg.weights else "random"
        return EncoderChoice(
            cfg.backbone, init, made.width, FRAMES, made.image_size, digest, (made.licence,), cfg.seed, file=cfg.weights
        )
    weights = load_weights(cfg.weights, cfg.model or None)
    shape, told = weights.config, weights.provenance
    return EncoderChoice(
        shape.name, "pretrained", shape.encoder_dim, shape.frames, shape.image_size, weights.digest, licences_of(told),
        cfg.seed, config=shape, weights=weights, provenance=told,
    )  # fmt: skip


def licences_of(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the licences that a weight file says it stands on; a foreign file says nothing, which is said."""
    if not provenance:
        return ("weights: not stated by the file",)
    parts = [
        f"{part.get('part')}: {part.get('licence')}"
        for part in provenance.get("licences", ())
        if isinstance(part, dict)
    ]
    source = provenance.get("source_licence")
    return (*([f"pretraining videos: {source}"] if source else []), *parts)
