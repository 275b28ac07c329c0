"""The two networks of a run, with the same first weights on every rank."""

from __future__ import annotations

import torch
from torch import nn

from infra.errors import ConfigError
from model.nets.config import ModelConfig, model_config
from model.nets.discriminator import Discriminator
from model.nets.factory import build_discriminator, build_mae
from model.nets.mae import MaskedAutoencoder
from model.train_config import PretrainConfig
from model.weights import load_weights

DISCRIMINATOR = "discriminator."
"""Prefix of the discriminator's parameters in a weight file."""


def model_shape(cfg: PretrainConfig) -> ModelConfig:
    """Return the shape of the network that the settings name."""
    return model_config(cfg.model.name, **cfg.model.overrides)


def build_networks(cfg: PretrainConfig) -> tuple[MaskedAutoencoder, Discriminator | None]:
    """Return (masked autoencoder, discriminator or None), a function of the seed and ``init_from`` alone.

    A file without decoder or discriminator starts those at random.

    Raises:
        ConfigError: ``init_from`` holds a network of another shape.
        WeightsError: it cannot be read.
    """
    shape = model_shape(cfg)
    torch.manual_seed(cfg.seed)
    generator = build_mae(shape)
    discriminator = build_discriminator(shape)  # drawn even when it is not used: the generator is the same either way
    if cfg.init_from is not None:
        loaded = load_weights(cfg.init_from)
        parts = split_state(loaded.state)
        for network, state in zip((generator, discriminator), parts, strict=True):
            _load(network, state, cfg.init_from)
    return generator, discriminator if cfg.adversarial.enabled else None


def split_state(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return (the autoencoder's, the discriminator's) part of a weight file's state."""
    judge = {name.removeprefix(DISCRIMINATOR): value for name, value in state.items() if name.startswith(DISCRIMINATOR)}
    return {name: value for name, value in state.items() if not name.startswith(DISCRIMINATOR)}, judge


def _load(network: nn.Module, state: dict[str, torch.Tensor], origin: str) -> None:
    """Copy what the file has; what it has and the network lacks, or has in another shape, is an error."""
    own = network.state_dict()
    wrong = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise ConfigError(
            f"init_from {origin} does not fit the network ({len(wrong)} tensors, the first is {wrong[0]}); "
            "choose the same model.name and overrides as it was trained with"
        )
    network.load_state_dict(state, strict=False)
