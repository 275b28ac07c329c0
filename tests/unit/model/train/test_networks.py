"""Networks are what the settings say, and how they are computed is no part of them."""

from __future__ import annotations

import torch

from infra.config import load_config
from model.train.networks import build_networks, model_shape
from model.train_config import PretrainConfig
from tests.support.pretraining import SMALL_MODEL


def config(*overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, None, [*SMALL_MODEL, *overrides])


def test_recomputed_activations_give_the_same_gradients_and_are_not_saved_as_shape():
    """Catches a setting that never reaches the blocks, and weights that force it on whoever loads them."""
    clip = torch.randint(0, 256, (1, 3, 16, 112, 112), dtype=torch.uint8)
    is_masked = torch.rand(1, 392, generator=torch.Generator().manual_seed(0)) < 0.9
    gradients = []
    for setting in ("false", "true"):
        cfg = config(f"activation_checkpointing={setting}")
        generator, _ = build_networks(cfg)
        assert generator.encoder.config.activation_checkpointing == (setting == "true")
        assert not model_shape(cfg).activation_checkpointing
        generator(clip, is_masked).pred_BMP.sum().backward()
        gradients.append([value.grad for value in generator.parameters() if value.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_the_generator_is_the_same_with_and_without_a_discriminator():
    """Catches ablations that start from other weights."""
    (one, judge), (other, none) = (build_networks(config(f"adversarial.enabled={on}")) for on in ("true", "false"))
    assert judge is not None
    assert none is None
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
