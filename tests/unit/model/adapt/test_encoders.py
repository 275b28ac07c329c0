"""Which weights may be adapted, and what is said of them."""

import pytest
import torch

from infra.errors import WeightsError
from model.adapt.encoders import open_encoder
from model.adapt_config import AdaptConfig
from model.licences import NOT_STATED, licence_note
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from tests.unit.model.adapt.conftest import TINY

ADAPTED = {
    "kind": "adapt-deepfake", "dataset": "ffpp", "dataset_version": 3, "adapted_on_licences": ["videos: research only"],
    "pretraining": {"kind": "pretrain", "dataset": "ytf", "source_licence": "MIT", "licences": []},
    "pretrained_weights": "runs/pretrain",
}  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    """Save a file that says something of itself; return the settings that adapt it."""

    def save(**told: object) -> AdaptConfig:
        config = model_config("marlin_vit_tiny", **TINY)
        save_weights(tmp_path / "w.safetensors", build_mae(config).state_dict(), config, told)
        return AdaptConfig(task="deepfake", weights=str(tmp_path / "w.safetensors"))

    return save


@pytest.mark.parametrize(
    "told",
    [
        {**ADAPTED, "labels_learnt": ["deepfake of ffpp, version 3"]},
        ADAPTED,
        {"kind": "pretrain", "dataset": "ytf", "labels_learnt": ["deepfake of ffpp, version 3"]},
    ],
    ids=["fine-tuned", "adapted before it was written down", "pretrained from a fine-tuned one"],
)
def test_an_encoder_that_has_learnt_labels_is_refused(weights, told):
    """Catches a test on videos whose labels the encoder was shown, under a note that it saw none."""
    with pytest.raises(WeightsError, match=r"has learnt labels \(deepfake of ffpp, version 3\).*name the pretrained"):
        open_encoder(weights(**told))


def test_the_cure_names_the_pretrained_weights(weights):
    with pytest.raises(WeightsError, match=r"that it began with \(runs/pretrain\)$"):
        open_encoder(weights(**ADAPTED))


def test_the_cure_is_not_where_pretraining_began(weights):
    """Catches the name of the grandparent, in a file that does not say what was adapted."""
    with pytest.raises(WeightsError, match=r"that it began with$"):
        open_encoder(weights(kind="adapt-deepfake", dataset="d", init_from="runs/grandparent"))


def test_pretraining_that_is_no_mapping_is_passed_over(weights):
    """Catches a traceback of what a foreign hand wrote into the header."""
    assert open_encoder(weights(pretraining=None, source_licence="MIT")).licences == ("pretraining videos: MIT",)


def test_a_baseline_s_weights_that_are_gone_are_one_sentence(tmp_path, monkeypatch):
    """Catches FileNotFoundError, and PermissionError."""
    cfg = AdaptConfig(task="deepfake", backbone="r3d", weights=str(tmp_path / "k400.pt"))
    with pytest.raises(WeightsError, match=r"k400.pt do not exist"):
        open_encoder(cfg)
    torch.save({}, tmp_path / "k400.pt")
    monkeypatch.setattr("model.weights.file_digest", lambda _: (tmp_path / "absent").open())
    with pytest.raises(WeightsError, match=r"k400.pt cannot be read \(No such file"):
        open_encoder(cfg)


def test_under_a_probe_the_encoder_is_what_it_was(weights):
    """Catches a probe's dataset that is taken for the encoder's, and facts of pretraining that are overwritten."""
    choice = open_encoder(weights(**ADAPTED, labels_learnt=[]))
    assert (choice.provenance["kind"], choice.provenance["dataset"]) == ("pretrain", "ytf")
    assert choice.licences == ("pretraining videos: MIT",)


def test_a_baselines_weights_have_terms_of_their_own(tmp_path):
    """Catches weights pretrained on Kinetics that go by the licence of the code."""
    torch.save({}, tmp_path / "k400.pt")
    choice = open_encoder(AdaptConfig(task="deepfake", backbone="r3d", weights=str(tmp_path / "k400.pt")))
    assert choice.licences == ("torchvision: BSD-3-Clause", NOT_STATED)
    assert "not stated of: weights" in str(licence_note(choice.licences))
    at_random = open_encoder(AdaptConfig(task="deepfake", backbone="r3d"))
    assert at_random.licences == ("torchvision: BSD-3-Clause",)
