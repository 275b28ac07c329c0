"""Shapes that do not fit together are one sentence with the cure."""

import pytest

from infra.errors import ConfigError
from model.nets.config import model_config


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"frames": 15}, "frames 15 is not a multiple of tubelet 2"),
        ({"image_size": 100}, "image_size 100 is not a multiple of patch_size 16"),
        ({"encoder_heads": 5}, "encoder_dim 192 is not a multiple of encoder_heads 5"),
        ({"decoder_dim": 127}, "decoder_dim 127 is not a multiple"),
        ({"patch_size": 12}, "patch_size"),
        ({"frames": 1024, "image_size": 1024}, "tokens are more than"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model_config("marlin_vit_tiny", **overrides)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(ConfigError, match="marlin_vit_small"):
        model_config("marlin_vit_medium")


def test_the_grid_of_the_released_sizes_has_1568_tokens_of_1536_numbers():
    config = model_config("marlin_vit_base")
    assert (config.grid, config.tokens, config.patch_values) == ((8, 14, 14), 1568, 1536)
