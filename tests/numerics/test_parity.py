"""Same weights, same numbers: against marlin-pytorch 0.3.4 and Hugging Face's VideoMAE, in fp32."""

from __future__ import annotations

from pathlib import Path

import marlin_pytorch
import pytest
import torch
from marlin_pytorch.config import resolve_config
from torch import Tensor, nn

from infra.errors import WeightsError
from model import Marlin
from model.export import export_weights
from model.foreign_names import head_order
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import load_weights, save_weights

BASE, LARGE = (pytest.param(name, marks=pytest.mark.slow) for name in ("base", "large"))
SHAPE = (
    "img_size", "patch_size", "n_frames", "encoder_embed_dim", "encoder_depth", "encoder_num_heads",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "mlp_ratio", "qkv_bias", "qk_scale", "drop_rate",
    "attn_drop_rate", "norm_layer", "init_values", "tubelet_size",
)  # fmt: skip


def draw_biases(network: nn.Module) -> None:
    """Zeros, as biases begin, would hide one in the wrong place."""
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value, std=0.02)


@pytest.fixture(params=["small", BASE, LARGE])
def theirs(request: pytest.FixtureRequest) -> tuple[str, marlin_pytorch.Marlin]:
    """A released size with random weights, made by marlin-pytorch itself."""
    name = f"marlin_vit_{request.param}_ytf"
    config = resolve_config(name)
    torch.manual_seed(0)
    network = marlin_pytorch.Marlin(**{key: getattr(config, key) for key in SHAPE}, as_feature_extractor=False)
    draw_biases(network)
    return name, network.eval()


@pytest.fixture(params=["small", BASE])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A released size with random weights, made and saved by us."""
    name = f"marlin_vit_{request.param}"
    torch.manual_seed(0)
    network = build_mae(model_config(name))
    draw_biases(network)
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), network.config, {})
    return name, path


def clip_and_visible() -> tuple[Tensor, Tensor]:
    """A clip (1, 3, 16, 224, 224) and 156 visible tokens of 1,568."""
    torch.manual_seed(1)
    visible = torch.zeros(1, 1568, dtype=torch.bool)
    visible[:, torch.randperm(1568)[:156]] = True
    return torch.rand(1, 3, 16, 224, 224), visible


def assert_same_numbers(ours: Marlin, theirs: marlin_pytorch.Marlin) -> None:
    """Features, pooled features and reconstruction agree to 1e-5."""
    clip, visible = clip_and_visible()
    torch.testing.assert_close(ours.extract_features(clip), theirs.extract_features(clip), atol=1e-5, rtol=0)
    pooled = theirs.extract_features(clip, keep_seq=False)
    torch.testing.assert_close(ours.extract_features(clip, keep_seq=False), pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours(clip, visible), theirs(clip, visible), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_file_that_marlin_pytorch_wrote_gives_its_numbers_and_goes_back_unchanged(theirs, tmp_path: Path) -> None:
    """Catches positions computed anew (features off by 6e-5), and an export that does not give back what came in."""
    name, network = theirs
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    assert_same_numbers(Marlin.from_file(name, tmp_path / "theirs.pt").eval(), network)
    exported = torch.load(export_weights(tmp_path / "theirs.pt", "marlin-pytorch", tmp_path / "back.pt"))
    assert exported.keys() == network.state_dict().keys()
    assert all(torch.equal(exported[key], value) for key, value in network.state_dict().items())


@torch.no_grad()
def test_weights_that_we_exported_give_our_numbers_in_marlin_pytorch(weights: tuple[str, Path], tmp_path: Path) -> None:
    """Catches names or a layout that only our own reader understands."""
    name, path = weights
    exported = export_weights(path, "marlin-pytorch", tmp_path / "exported.pt")
    network = marlin_pytorch.Marlin.from_file(f"{name}_ytf", str(exported)).eval()
    assert_same_numbers(Marlin.from_file(name, path).eval(), network)


@torch.no_grad()
def test_the_exported_folder_gives_the_same_in_transformers_and_comes_back(
    weights: tuple[str, Path], tmp_path: Path
) -> None:
    """Catches q, k and v mixed up, biases on k, another eps, and a decoder head left in MARLIN's order."""
    from transformers import VideoMAEForPreTraining

    _, path = weights
    folder = export_weights(path, "huggingface", tmp_path / "folder")
    theirs = VideoMAEForPreTraining.from_pretrained(folder).eval()
    ours = Marlin(load_weights(path)).eval()
    clip, visible = clip_and_visible()
    hidden = theirs.videomae(clip.transpose(1, 2)).last_hidden_state
    assert torch.allclose(ours.extract_features(clip), hidden, atol=2e-5, rtol=0)
    logits = theirs(clip.transpose(1, 2), bool_masked_pos=~visible).logits[..., head_order(2, 16, 16)]
    assert torch.allclose(ours(clip, visible), logits, atol=2e-5, rtol=0)
    again, first = load_weights(folder).state, load_weights(path).state
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first)


def test_weights_of_another_size_are_refused_by_name(weights: tuple[str, Path]) -> None:
    """Catches a size that is taken from the file where the caller asked for another."""
    name, path = weights
    other = "marlin_vit_base" if name != "marlin_vit_base" else "marlin_vit_small"
    with pytest.raises(WeightsError, match=name):
        Marlin.from_file(other, path)
