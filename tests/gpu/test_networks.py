"""The networks on a GPU compute what they compute on a CPU: to rounding in fp32, to a few per cent in bf16 and fp16."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from model.losses import reconstruction_loss
from model.masking import make_mask
from model.nets.config import TokenGrid, model_config
from model.nets.factory import build_mae
from model.nets.mae import MaskedAutoencoder

pytestmark = pytest.mark.gpu

HALVES = [(torch.bfloat16, 0.05), (torch.float16, 0.01)]


@pytest.fixture
def network() -> MaskedAutoencoder:
    """Tiny, with drawn biases: zeros would hide one in the wrong place."""
    torch.manual_seed(0)
    made = build_mae(model_config("marlin_vit_tiny"))
    for name, value in made.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, std=0.02)
    return made.eval()


def inputs() -> tuple[Tensor, Tensor]:
    """Two uint8 clips and their masks."""
    torch.manual_seed(1)
    clip_BCTHW = torch.randint(0, 256, (2, 3, 16, 224, 224), dtype=torch.uint8)
    grid = TokenGrid(8, 14, 14)
    return clip_BCTHW, make_mask("random", torch.zeros(2, *grid, dtype=torch.int32), grid, 0.9, torch.arange(2))


def off(found: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference over that of what is wanted."""
    found, wanted = found.double().cpu(), wanted.double().cpu()
    return float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def assert_same_pixels(found: Tensor, wanted: Tensor) -> None:
    """Equal but for the last bit: a GPU multiplies by 1/255 where a CPU divides."""
    torch.testing.assert_close(found.cpu(), wanted, rtol=2e-7, atol=0)


@torch.no_grad()
def test_features_and_predictions_in_fp32_are_those_of_the_cpu(network, device):
    """Catches TF32 switched on by somebody, and an attention kernel that differs."""
    clip, mask = inputs()
    on_gpu = copy.deepcopy(network).to(device)
    assert off(on_gpu.encoder(clip.to(device)), network.encoder(clip)) < 1e-4
    assert off(on_gpu.encoder.pooled(clip.to(device)), network.encoder.pooled(clip)) < 1e-4
    found, wanted = on_gpu(clip.to(device), mask.to(device)), network(clip, mask)
    assert off(found.pred_BMP, wanted.pred_BMP) < 1e-4
    torch.testing.assert_close(
        found.target_BMP.cpu(), wanted.target_BMP, rtol=2e-7, atol=0
    )  # a GPU multiplies by 1/255


@pytest.mark.parametrize(("dtype", "tolerance"), HALVES)
@torch.no_grad()
def test_half_precision_stays_close_and_rounds_neither_targets_nor_positions(network, device, dtype, tolerance):
    """Catches pixels or position tables in bf16: both are exact to 8 bits only there."""
    clip, mask = inputs()
    half = copy.deepcopy(network).to(device, dtype)
    assert off(half.encoder(clip.to(device)), network.encoder(clip)) < tolerance
    found, wanted = half(clip.to(device), mask.to(device)), network(clip, mask)
    assert off(found.pred_BMP, wanted.pred_BMP) < tolerance
    torch.testing.assert_close(
        found.target_BMP.cpu(), wanted.target_BMP, rtol=2e-7, atol=0
    )  # a GPU multiplies by 1/255
    assert torch.equal(half.encoder.pos_embedding.emb.cpu(), network.encoder.pos_embedding.emb)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_fp32_are_those_of_the_cpu(network, device, checkpointing):
    """Catches a backward pass through token selection, or through recomputed blocks, that differs."""
    clip, mask = inputs()
    on_gpu = build_mae(model_config("marlin_vit_tiny", activation_checkpointing=checkpointing))
    on_gpu.load_state_dict(network.state_dict())
    on_gpu.to(device)
    for made, place in ((network, torch.device("cpu")), (on_gpu, device)):
        reconstruction_loss(*made(clip.to(place), mask.to(place))).backward()
    wanted = dict(network.named_parameters())
    for name, value in on_gpu.named_parameters():
        assert value.grad is not None
        assert off(value.grad, wanted[name].grad) < 1e-3, name
