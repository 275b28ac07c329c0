"""Weight files: every format arrives under our names, and nothing in a file runs."""

import argparse
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from infra.errors import ConfigError, WeightsError
from model import Marlin
from model.adapt.encoder import pretrained_encoder
from model.export import export_weights
from model.foreign_names import head_order
from model.nets.config import model_config
from model.nets.factory import build_discriminator, build_mae
from model.reconstruct import load_autoencoder
from model.train.networks import build_networks
from model.train_config import ModelChoice, PretrainConfig
from model.weights import known_name, load_weights, save_weights

TINY = model_config("marlin_vit_tiny")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build_mae(TINY).state_dict()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_our_own_file_returns_what_was_saved(tmp_path):
    """Catches lost tensors, a lost shape and lost provenance; the folder of a run stands for the file in it."""
    config = model_config("marlin_vit_tiny", image_size=112, activation_checkpointing=True)
    state = build_mae(config).state_dict()
    save_weights(tmp_path / "run" / "weights.safetensors", state, config, {"dataset": "abc", "licences": ["x"]})
    loaded = load_weights(tmp_path / "run")
    assert same(loaded.state, state)
    assert loaded.config == config
    assert loaded.provenance == {"dataset": "abc", "licences": ["x"]}
    assert loaded.has_decoder
    assert not loaded.has_discriminator
    assert os.listdir(tmp_path / "run") == ["weights.safetensors"]


def test_an_encoder_only_pt_has_no_decoder_and_its_size_is_inferred(tmp_path, state):
    """Catches a size that has to be told."""
    torch.save({k: v for k, v in state.items() if k.startswith("encoder.")}, tmp_path / "tiny.encoder.pt")
    loaded = load_weights(tmp_path / "tiny.encoder.pt")
    assert loaded.config == TINY
    assert not loaded.has_decoder


def test_a_lightning_checkpoint_brings_its_discriminator(tmp_path, state):
    """Catches a state dict that is looked for at the top level only."""
    critic = {f"discriminator.{k}": v for k, v in build_discriminator(TINY).state_dict().items()}
    torch.save({"state_dict": {**state, **critic}, "epoch": 3}, tmp_path / "last.ckpt")
    loaded = load_weights(tmp_path / "last.ckpt", "marlin_vit_tiny_ytf")
    assert loaded.has_discriminator
    assert same(loaded.state, {**state, **critic})


TABLE = "encoder.pos_embedding.emb"


def test_a_file_s_own_position_table_is_what_every_network_built_from_it_uses(tmp_path, state):
    """Catches a table that is computed anew: marlin-pytorch's differ from ours by 1e-4, its features then by 6e-5."""
    own = torch.full((1, 1568, 192), 0.5)
    torch.save({**state, TABLE: own}, tmp_path / "w.pt")
    loaded = load_weights(tmp_path / "w.pt")
    assert torch.equal(Marlin(loaded).encoder.pos_embedding.emb, own)
    assert torch.equal(pretrained_encoder(loaded).encoder.pos_embedding.emb, own)
    assert torch.equal(load_autoencoder(tmp_path / "w.pt")[0].encoder.pos_embedding.emb, own)
    cfg = PretrainConfig(model=ModelChoice(name="marlin_vit_tiny"), init_from=str(tmp_path / "w.pt"))
    assert torch.equal(build_networks(cfg)[0].encoder.pos_embedding.emb, own)


def test_export_writes_back_the_table_that_a_file_brought(tmp_path, state):
    """Catches an export that puts our own table beside weights that were trained with another."""
    own = torch.full((1, 1568, 192), 0.5)
    torch.save({**state, TABLE: own}, tmp_path / "w.pt")
    exported = export_weights(tmp_path / "w.pt", "marlin-pytorch", tmp_path / "out" / "exported.pt")
    assert same(torch.load(exported, weights_only=True), {**state, TABLE: own})
    assert os.listdir(tmp_path / "out") == ["exported.pt"]


def test_a_file_without_tables_gets_the_computed_ones(tmp_path, state):
    """Catches a strict load of VideoMAE's files that fails, or zeros in place of positions."""
    torch.save({name: value for name, value in state.items() if not name.endswith("emb")}, tmp_path / "w.pt")
    assert same(load_weights(tmp_path / "w.pt").state, state)


def test_a_position_table_of_another_length_is_refused(tmp_path, state):
    """Catches weights for other clips that would fail, later, with torch's own words."""
    torch.save({**state, TABLE: torch.zeros(1, 784, 192)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"784.*1568"):
        load_weights(tmp_path / "w.pt")


def test_weights_of_a_run_that_is_not_finished_are_named_not_taken(tmp_path, state):
    """Catches an old checkpoint that silently stands for a finished run, and one that cannot be read at all."""
    folders = [tmp_path / "checkpoints" / name for name in ("step-000100", "step-000200", "step-000300.tmp")]
    for folder in folders:
        save_weights(folder / "weights.safetensors", state, TINY, {})
    with pytest.raises(WeightsError, match=r"name its checkpoint .*step-000200$"):
        load_weights(tmp_path)
    assert same(load_weights(folders[0]).state, state)


def test_a_header_that_asks_for_a_giant_is_refused_before_anything_is_built(tmp_path):
    """Catches a few bytes that make the loader allocate terabytes."""
    for change in ({"image_size": 1 << 20}, {"encoder_depth": 1 << 30}, {"frames": 1024, "image_size": 2048}):
        header = json.dumps({"config": {**TINY.model_dump(), **change}})
        save_file({"encoder.norm.bias": torch.zeros(1)}, str(tmp_path / "w.safetensors"), metadata={"marlin": header})
        with pytest.raises(WeightsError, match="header"):
            load_weights(tmp_path / "w.safetensors")


def test_a_head_alone_is_no_encoder(tmp_path):
    """Catches torch's list of missing keys for people who name head.safetensors."""
    save_weights(tmp_path / "head.safetensors", {"head.weight": torch.zeros(1, 192)}, TINY, {})
    with pytest.raises(WeightsError, match="no encoder"):
        Marlin(load_weights(tmp_path / "head.safetensors"))


def test_a_videomae_checkpoint_is_renamed_and_its_head_reordered(tmp_path, state):
    """Catches a head left in (t, h, w, c) order: it draws noise, with the right shapes."""
    theirs = {}
    for name, value in state.items():
        new = name.replace("patch_embedding.projection", "patch_embed.proj").replace(
            "enc_dec_proj", "encoder_to_decoder"
        )
        new = new.replace("mlp.layers.0.linear", "mlp.fc1").replace("mlp.layers.1.linear", "mlp.fc2")
        new = "mask_token" if new == "decoder.mask_token" else new
        if name.startswith("decoder.head."):
            value = value.unflatten(0, (3, 2, 16, 16)).permute(1, 2, 3, 0, *range(4, value.ndim + 3)).flatten(0, 3)
        if not new.endswith("emb"):
            theirs[new] = value
    torch.save({"model": theirs, "args": argparse.Namespace(lr=1)}, tmp_path / "videomae.pth")
    assert same(load_weights(tmp_path / "videomae.pth").state, state)


def test_head_order_is_a_permutation_that_gathers_channels():
    """Catches the inverse permutation: the first outputs of ours are red values, three apart in theirs."""
    order = head_order(2, 16, 16)
    assert torch.equal(order.sort().values, torch.arange(1536))
    assert order[:4].tolist() == [0, 3, 6, 9]


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("name", ["evil.pt", "evil.ckpt", "evil.pth"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, state, name):
    """Catches weights_only=False."""
    torch.save({"state_dict": state, "hooks": Malicious(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(WeightsError, match="refused"):
        load_weights(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_another_size_than_the_one_named_is_refused(tmp_path, state):
    """Catches a silent load of tiny weights where base was asked for."""
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds a marlin_vit_tiny, not a marlin_vit_base"):
        load_weights(tmp_path / "w.pt", "marlin_vit_base_ytf")


@pytest.mark.parametrize("gone", ["encoder.norm.weight", "decoder.blocks.1.norm1.bias", "enc_dec_proj.weight"])
def test_a_missing_tensor_is_named(tmp_path, state, gone):
    """Catches a check of the encoder only."""
    torch.save({k: v for k, v in state.items() if k != gone}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=gone):
        load_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_damaged_files_are_one_sentence(tmp_path, name, content):
    """Catches tracebacks of torch and safetensors."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\."):
        load_weights(tmp_path / name)


def test_absent_and_foreign_files_are_one_sentence(tmp_path):
    """Catches KeyError and FileNotFoundError."""
    with pytest.raises(WeightsError, match="do not exist"):
        load_weights(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="holds no"):
        load_weights(tmp_path)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="no known format"):
        load_weights(tmp_path / "other.pt")
    save_file({"a": torch.zeros(1)}, str(tmp_path / "b.safetensors"), metadata={"marlin": json.dumps({"config": 1})})
    with pytest.raises(WeightsError, match="header"):
        load_weights(tmp_path / "b.safetensors")


def test_names_come_with_and_without_ytf():
    """Catches names that people who use marlin-pytorch have in their code."""
    assert known_name("marlin_vit_small_ytf") == known_name("marlin_vit_small") == "marlin_vit_small"
    with pytest.raises(ConfigError, match="unknown model"):
        known_name("marlin_vit_giant")
