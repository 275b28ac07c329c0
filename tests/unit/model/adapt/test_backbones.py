"""The baselines of the tables give one feature a clip, at random from a seed, or from a file of their own."""

import re

import numpy as np
import pytest
import torch
from torchvision.ops import StochasticDepth

from infra.errors import WeightsError
from model.adapt.backbones import BACKBONES, FRAMES, build_backbone
from model.adapt.classifier import Classifier
from model.adapt.encoders import open_encoder
from model.adapt.run import adapt
from model.adapt_config import AdaptConfig


@pytest.mark.parametrize("name", ["r3d", "xception"])
def test_a_clip_becomes_one_feature_of_the_promised_width(name):
    module = build_backbone(name, "", 0).eval()
    clip = torch.randint(0, 255, (1, 2 if name == "xception" else 16, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = module(clip)
    assert found.shape == (1, BACKBONES[name].width)
    again = build_backbone(name, "", 0).eval()
    assert torch.equal(found, again(clip).detach())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("r3d", 3), ("mvit_v1", 1), ("mvit_v2", 1), ("xception", 1)])
def test_a_baseline_takes_training_steps_on_clips_of_its_size(name, steps):
    """Catches a network that takes no clip of ours, and parts of it that no gradient reaches.

    Several steps must lower the loss, too; the transformers' jumps on two clips, so they take one.
    """
    torch.manual_seed(0)
    made = BACKBONES[name]
    network = Classifier(build_backbone(name, "", 0), torch.nn.Linear(made.width, 1)).train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-5)
    clip_BTHWC = torch.randint(0, 256, (2, FRAMES, made.image_size, made.image_size, 3), dtype=torch.uint8)
    targets_BJ = torch.tensor([[0.0], [1.0]])
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout | StochasticDepth):  # noise that is larger than what few steps learn
            module.eval()
    losses = []
    for _ in range(steps):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(clip_BTHWC), targets_BJ)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert steps == 1 or losses[-1] < losses[0], losses
    untouched = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # the class token alone is read, whose query has neither positions nor pooling in the last block of MViTv2
    idle = re.compile(r"encoder\.network\.blocks\.15\.attn\.(rel_pos_[hwt]|pool_q\.pool\.weight)")
    assert [key for key in untouched if name != "mvit_v2" or not idle.fullmatch(key)] == []


@pytest.mark.parametrize("name", ["mvit_v1", "mvit_v2"])
def test_the_transformers_are_there_without_their_heads(name):
    module = build_backbone(name, "", 0)
    assert isinstance(module.network.head, torch.nn.Identity)
    assert module.network.norm.weight.shape == (BACKBONES[name].width,)


def test_a_state_dict_of_its_own_is_taken_and_another_refused(tmp_path):
    from torchvision.models.video import r3d_18

    torch.manual_seed(3)
    network = r3d_18(weights=None)
    torch.save(network.state_dict(), tmp_path / "r3d.pt")
    module = build_backbone("r3d", str(tmp_path / "r3d.pt"), 0)
    assert torch.equal(module.network.stem[0].weight, network.stem[0].weight)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="holds no r3d"):
        build_backbone("r3d", str(tmp_path / "other.pt"), 0)


def test_a_baseline_goes_through_the_same_engine(drawn_dataset, tmp_path):
    cfg = AdaptConfig.model_validate({
        "task": "deepfake", "backbone": "r3d", "device": "cpu", "threads": 1, "bootstrap": 100, "pictures": 0,
        "data": {"dataset": str(drawn_dataset), "gap_frames": 16, "max_windows": 8, "windows_per_clip": 1},
        "probe": {"epochs": 5}, "finetune": {"enabled": False},
    })  # fmt: skip
    report = adapt(cfg, tmp_path)
    assert [(row.mode, row.init) for row in report.rows] == [("LP", "random")]
    assert (report.encoder, report.weights_sha256) == ("r3d", "")
    assert np.isfinite(report.rows[0].val_loss)
    assert open_encoder(cfg).image_size == 112
