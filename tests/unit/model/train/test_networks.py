"""Networks are what the settings say, and how they are computed is no part of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infra.config import load_config
from infra.errors import ConfigError
from model.nets.factory import build_mae
from model.train.networks import build_networks, first_weights, model_shape
from model.train_config import PretrainConfig
from model.weights import save_weights
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


def test_a_start_without_position_tables_takes_the_run_s_own_shape(tmp_path: Path):
    """Catches VideoMAE's files, which say no pixels and frames, refused by every run that has not 224 and 16."""
    shape = model_shape(config())
    assert shape.image_size == 112
    state = {name: value for name, value in build_mae(shape).state_dict().items() if not name.endswith("emb")}
    torch.save(state, tmp_path / "w.pth")
    generator, _ = build_networks(config(f"init_from={tmp_path / 'w.pth'}"))
    assert all(torch.equal(generator.state_dict()[name], value) for name, value in state.items())


def test_a_start_with_other_heads_is_refused(tmp_path: Path):
    """Catches heads, which no tensor's shape shows: the same numbers make another network."""
    other = model_shape(config()).model_copy(update={"encoder_heads": 1})
    save_weights(tmp_path / "w.safetensors", build_mae(other).state_dict(), other, {})
    with pytest.raises(ConfigError, match="encoder_heads"):
        first_weights(config(f"init_from={tmp_path / 'w.safetensors'}"))
