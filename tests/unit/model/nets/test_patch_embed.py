"""Clips to patches and back, patches to tokens, and where a token is."""

import math

import pytest
import torch
from torch import nn

from model.nets.patch_embed import (
    PatchEmbedding,
    SinCosPositions,
    patchify,
    sin_cos_table,
    take_tokens,
    to_unit_range,
    token_indices,
    unpatchify,
)


def test_unpatchify_is_the_inverse_of_patchify():
    """Catches two orders that differ: the picture would be shuffled inside its patches."""
    clip = torch.rand(2, 3, 4, 32, 48)
    patches = patchify(clip, 2, 16)
    assert patches.shape == (2, 2 * 2 * 3, 1536)
    assert torch.equal(unpatchify(patches, (2, 2, 3), 2, 16), clip)


def test_tokens_go_by_time_row_column_and_numbers_by_channel_time_row_column():
    """Catches VideoMAE's order (t, h, w, c), for which weights of MARLIN draw noise."""
    clip = torch.zeros(1, 3, 4, 32, 32)
    clip[0, 2, 3, 16 + 5, 7] = 1  # blue, second frame of the second tubelet, row 5 and column 7 of the left lower patch
    patches = patchify(clip, 2, 16)
    assert patches.nonzero().tolist() == [[0, 4 + 2, 2 * 512 + 1 * 256 + 5 * 16 + 7]]


def test_the_linear_embedding_is_the_convolution_it_stands_for():
    """Catches weights flattened in another order than patches."""
    torch.manual_seed(0)
    embedding, clip = PatchEmbedding(24, 2, 16), torch.rand(2, 3, 4, 32, 32)
    wanted = embedding.projection(clip).flatten(2).transpose(1, 2)
    assert torch.allclose(embedding(patchify(clip, 2, 16)), wanted, atol=1e-5)


def test_selected_tokens_keep_their_order():
    """Catches a gather by descending index."""
    values = torch.arange(12.0).reshape(2, 6, 1)
    wanted = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    assert take_tokens(values, token_indices(wanted))[..., 0].tolist() == [[0, 2, 5], [7, 8, 9]]


def test_bytes_become_the_unit_range_and_floats_stay():
    """Catches a second division by 255, and mean and std that MARLIN does not have."""
    assert to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit_range(torch.tensor([0.25])).tolist() == [0.25]


def test_positions_are_those_of_method_section_3():
    """Catches sine and cosine by halves (as MAE has them), and a pair of dimensions with two frequencies."""
    table = sin_cos_table(1568, 384)
    for position, i in ((0, 0), (0, 1), (7, 0), (7, 1), (1567, 100), (1567, 101), (900, 383)):
        angle = position / 10000 ** (2 * (i // 2) / 384)
        assert table[0, position, i] == pytest.approx(math.sin(angle) if i % 2 == 0 else math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_table_is_never_rounded_when_its_network_is_cast(dtype):
    """Catches bf16 engines that save positions with three digits."""
    network = nn.ModuleDict({"positions": SinCosPositions(100, 32), "linear": nn.Linear(2, 2)}).to(dtype)
    assert network["linear"].weight.dtype == dtype
    assert torch.equal(network["positions"].emb, sin_cos_table(100, 32))
    assert network.state_dict()["positions.emb"].dtype == torch.float32


def test_a_state_dict_brings_its_own_table_and_moves_stay_possible():
    """Catches a table that only looks like a part of the state, and one that `to_empty` loses."""
    positions, own = SinCosPositions(10, 4), torch.full((1, 10, 4), 0.5)
    positions.load_state_dict({"emb": own})
    assert torch.equal(positions.emb, own)
    assert SinCosPositions(10, 4).to("meta").emb.is_meta
