"""The two networks of a run, with the same first weights on every rank."""

from __future__ import annotations

import torch

from infra.errors import ConfigError
from model.masking import target_tokens, visible_tokens
from model.nets.config import ModelConfig, model_config
from model.nets.discriminator import Discriminator
from model.nets.factory import build_discriminator, build_mae
from model.nets.flops import step_flops
from model.nets.mae import MaskedAutoencoder
from model.train_config import PretrainConfig
from model.weights import LoadedWeights, load_weights


def model_shape(cfg: PretrainConfig) -> ModelConfig:
    """Return the shape of the network that the settings name, as it is saved with its weights."""
    return model_config(cfg.model.name, **cfg.model.overrides)


def build_networks(cfg: PretrainConfig) -> tuple[MaskedAutoencoder, Discriminator | None]:
    """Return (masked autoencoder, discriminator or None), a function of the seed and ``init_from`` alone.

    A file without decoder or discriminator starts those at random. Errors as ``first_weights``.
    """
    shape = model_shape(cfg)
    torch.manual_seed(cfg.seed)
    recompute = cfg.activation_checkpointing or shape.activation_checkpointing
    generator = build_mae(shape.model_copy(update={"activation_checkpointing": recompute}))
    discriminator = build_discriminator(shape)  # drawn even when it is not used: the generator is the same either way
    if (weights := first_weights(cfg)) is not None:
        generator.load_state_dict(weights.network, strict=False)
        discriminator.load_state_dict(weights.discriminator, strict=False)
    return generator, discriminator if cfg.adversarial.enabled else None


def clip_flops(cfg: PretrainConfig) -> int:
    """Return the arithmetic of one clip in a training step, in FLOPs; the gradient penalty's is left out."""
    shape = model_shape(cfg)
    visible, adversarial = visible_tokens(shape.grid, cfg.mask.ratio), cfg.adversarial
    predicted = target_tokens(shape.tokens - visible, cfg.mask.decoder_ratio)
    return step_flops(
        shape, visible, predicted, adversarial=adversarial.enabled, d_steps=adversarial.d_steps,
        g_steps=adversarial.g_steps,
    )  # fmt: skip


def first_weights(cfg: PretrainConfig) -> LoadedWeights | None:
    """Return what ``init_from`` holds, None when the run starts at random.

    Raises:
        ConfigError: it holds a network of another shape.
        WeightsError: it cannot be read.
    """
    if cfg.init_from is None:
        return None
    shape = model_shape(cfg)
    weights = load_weights(cfg.init_from, config=shape)
    with torch.device("meta"):
        networks = (build_mae(shape), weights.network), (build_discriminator(shape), weights.discriminator)
    heads = ("encoder_heads", "decoder_heads") if weights.has_decoder else ("encoder_heads",)
    wrong = [name for name in heads if getattr(weights.config, name) != getattr(shape, name)]  # in no tensor's shape
    for network, state in networks:
        own = {name: value.shape for name, value in network.state_dict().items()}
        wrong += [name for name, value in state.items() if own.get(name) != value.shape]
    if wrong:
        raise ConfigError(
            f"init_from {cfg.init_from} does not fit the network ({len(wrong)} differences, the first is {wrong[0]}); "
            "choose the same model.name and overrides as it was trained with"
        )
    return weights
