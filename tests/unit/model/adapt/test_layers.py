"""Early layers learn slower than late ones, and no parameter is left out."""

import pytest
from torch import nn

from model.adapt.classifier import Classifier
from model.adapt.encoder import random_encoder
from model.adapt.layers import layer_groups
from model.nets.config import model_config


def test_rates_fall_with_depth_and_cover_every_parameter_once():
    """Catches block numbers read as text (block 10 before 2) and positions or biases that never learn."""
    config = model_config("marlin_vit_tiny", image_size=64, encoder_dim=48, encoder_depth=12)
    classifier = Classifier(random_encoder(config, 0), nn.Linear(48, 1))
    groups = layer_groups(classifier, 1e-3, 0.5, 1e-2)
    rate = {id(p): g.lr for g in groups for p in g.parameters}
    own = dict(classifier.named_parameters())
    assert sorted(rate) == sorted(id(p) for p in own.values() if p.requires_grad)
    assert sum(len(g.parameters) for g in groups) == len(rate)
    assert rate[id(own["encoder.encoder.blocks.11.attn.q_bias"])] == pytest.approx(1e-3)
    assert rate[id(own["encoder.encoder.blocks.2.mlp.layers.0.linear.weight"])] == pytest.approx(1e-3 * 0.5**9)
    assert rate[id(own["encoder.encoder.patch_embedding.projection.weight"])] == pytest.approx(1e-3 * 0.5**12)
    assert rate[id(own["encoder.encoder.norm.weight"])] == pytest.approx(1e-3)
    assert rate[id(own["head.weight"])] == 1e-2


def test_a_network_without_our_blocks_learns_with_one_rate():
    groups = layer_groups(Classifier(nn.Linear(4, 4), nn.Linear(4, 2)), 1e-3, 0.5, 1e-2)
    assert [(g.lr, len(g.parameters)) for g in groups] == [(1e-3, 2), (1e-2, 2)]
