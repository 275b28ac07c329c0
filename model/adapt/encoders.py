"""Which encoder a run adapts, and all that is said of it: pretrained, random, or a baseline of the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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

    ``init`` is ``pretrained`` or ``random``. ``config`` is None for baselines. ``digest`` is the weight file's sha256,
    empty without one. ``licences`` are those of what it was trained with.
    """

    name: str
    init: str
    width: int
    frames: int
    image_size: int
    digest: str
    licences: tuple[str, ...]
    config: ModelConfig | None = None
    weights: LoadedWeights | None = None
    baseline: str = ""
    file: str = ""
    seed: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Return the network: uint8 clips (B, T, H, W, 3) → features (B, width)."""
        if self.baseline:
            return build_backbone(self.baseline, self.file, self.seed)
        if self.weights is not None:
            return pretrained_encoder(self.weights)
        assert self.config is not None
        return random_encoder(self.config, self.seed)

    def at_random(self, seed: int) -> EncoderChoice:
        """Return the same network without its weights: what pretraining is compared with."""
        return EncoderChoice(
            self.name, "random", self.width, self.frames, self.image_size, "", (), self.config, None, self.baseline, "",
            seed,
        )  # fmt: skip


def open_encoder(cfg: AdaptConfig) -> EncoderChoice:
    """Return the encoder that the settings name; its size comes from the weights.

    Raises:
        WeightsError: the file cannot be read, or holds another size than ``cfg.model``.
    """
    if cfg.backbone != "marlin":
        made = BACKBONES[cfg.backbone]
        digest = file_digest(Path(cfg.weights)) if cfg.weights else ""
        return EncoderChoice(
            cfg.backbone, "pretrained" if cfg.weights else "random", made.width, FRAMES, made.image_size, digest,
            (made.licence,), baseline=cfg.backbone, file=cfg.weights, seed=cfg.seed,
        )  # fmt: skip
    weights = load_weights(cfg.weights, cfg.model or None)
    config, told = weights.config, weights.provenance
    return EncoderChoice(
        config.name, "pretrained", config.encoder_dim, config.frames, config.image_size, weights.digest,
        licences_of(told), config, weights, seed=cfg.seed, provenance=told,
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
