"""Networks from a config; weights are PyTorch's draw from its global generator, so seed it first."""

from __future__ import annotations

from model.nets.config import ModelConfig
from model.nets.discriminator import Discriminator
from model.nets.encoder import Encoder
from model.nets.mae import MaskedAutoencoder


def build_encoder(cfg: ModelConfig) -> Encoder:
    """Return a randomly initialised encoder."""
    return Encoder(cfg)


def build_mae(cfg: ModelConfig) -> MaskedAutoencoder:
    """Return a randomly initialised masked autoencoder (the generator)."""
    return MaskedAutoencoder(cfg)


def build_discriminator(cfg: ModelConfig) -> Discriminator:
    """Return a randomly initialised discriminator."""
    return Discriminator(cfg)
