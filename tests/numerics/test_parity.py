"""Same weights, same numbers: against marlin-pytorch 0.3.4 and Hugging Face's VideoMAE, in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from infra.errors import WeightsError
from model import Marlin
from model.export import export_weights
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import head_order, load_weights, save_weights

SIZES = ["small", "base", pytest.param("large", marks=pytest.mark.slow)]


@pytest.fixture(params=SIZES)
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Random weights of a released size; every bias is drawn, since zeros would hide one in the wrong place."""
    name = f"marlin_vit_{request.param}"
    torch.manual_seed(0)
    network = build_mae(model_config(name))
    for key, value in network.named_parameters():
        if key.endswith("bias"):
            nn.init.normal_(value, std=0.02)
    path = tmp_path / "weights.safetensors"
    save_weights(path, network.state_dict(), network.config, {})
    return name, path


def _clip_and_visible() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    visible = torch.zeros(1, 1568, dtype=torch.bool)
    visible[:, torch.randperm(1568)[:156]] = True
    return torch.rand(1, 3, 16, 224, 224), visible


@torch.no_grad()
def test_features_and_reconstruction_agree_with_marlin_pytorch(weights: tuple[str, Path], tmp_path: Path) -> None:
    import marlin_pytorch

    name, path = weights
    exported = export_weights(path, "marlin-pytorch", tmp_path / "exported.pt")
    theirs = marlin_pytorch.Marlin.from_file(f"{name}_ytf", str(exported)).eval()
    ours = Marlin.from_file(f"{name}_ytf", exported)
    clip, visible = _clip_and_visible()
    assert torch.allclose(ours.extract_features(clip), theirs.extract_features(clip), atol=1e-5, rtol=0)
    pooled = theirs.extract_features(clip, keep_seq=False)
    assert torch.allclose(ours.extract_features(clip, keep_seq=False), pooled, atol=1e-5, rtol=0)
    assert torch.allclose(ours(clip, visible), theirs(clip, visible), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_exported_folder_gives_the_same_in_transformers_and_comes_back(
    weights: tuple[str, Path], tmp_path: Path
) -> None:
    from transformers import VideoMAEForPreTraining

    _, path = weights
    folder = export_weights(path, "huggingface", tmp_path / "folder")
    theirs = VideoMAEForPreTraining.from_pretrained(folder).eval()
    ours = Marlin(load_weights(path))
    clip, visible = _clip_and_visible()
    hidden = theirs.videomae(clip.transpose(1, 2)).last_hidden_state
    assert torch.allclose(ours.extract_features(clip), hidden, atol=2e-5, rtol=0)
    logits = theirs(clip.transpose(1, 2), bool_masked_pos=~visible).logits[..., head_order(2, 16, 16)]
    assert torch.allclose(ours(clip, visible), logits, atol=2e-5, rtol=0)
    again, first = load_weights(folder).state, load_weights(path).state
    assert again.keys() == first.keys()
    assert all(torch.equal(again[key], first[key]) for key in first)


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.target,))


def test_a_weight_file_that_holds_code_is_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": _Evil(tmp_path / "ran")}}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_weights(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_size_are_refused_by_name(weights: tuple[str, Path]) -> None:
    name, path = weights
    other = "marlin_vit_base" if name != "marlin_vit_base" else "marlin_vit_small"
    with pytest.raises(WeightsError, match=name):
        Marlin.from_file(other, path)
