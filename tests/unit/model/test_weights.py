"""Weight files: every format arrives under our names, and nothing in a file runs."""

import argparse
import json
import logging
import os
import resource
import signal
import threading
import zipfile
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
from model.nets.factory import build_discriminator, build_encoder, build_mae
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


SMALL = model_config("marlin_vit_tiny", encoder_dim=24, encoder_depth=1, decoder_dim=16, decoder_depth=1)


@pytest.fixture
def small() -> dict[str, torch.Tensor]:
    """A state of few bytes, of no named size."""
    torch.manual_seed(0)
    return build_mae(SMALL).state_dict()


def refused(path: Path, match: str) -> None:
    """The file is refused with a sentence of ours that names it."""
    with pytest.raises(WeightsError, match=match) as error:
        load_weights(path, config=SMALL)
    assert str(path.name) in str(error.value)
    assert len(str(error.value)) < 600


def test_a_header_within_all_bounds_costs_nothing_before_the_tensors_are_seen(tmp_path, monkeypatch):
    """Catches 420 bytes that make the loader compute position tables of 2 GB."""
    monkeypatch.setattr("model.weights.sin_cos_table", lambda *shape: pytest.fail(f"a table {shape} was computed"))
    giant = {"frames": 1024, "tubelet": 1, "image_size": 64, "patch_size": 8, "encoder_dim": 8192, "encoder_heads": 1}
    header = json.dumps({"config": {**TINY.model_dump(), **giant}})
    save_file({"encoder.norm.bias": torch.zeros(1)}, str(tmp_path / "w.safetensors"), metadata={"marlin": header})
    refused(tmp_path / "w.safetensors", "does not fit")


@pytest.mark.parametrize("stride", [(0, 0), (1, 1)])
def test_tensors_that_show_the_same_bytes_again_are_refused(tmp_path, small, stride):
    """Catches a file of a kilobyte whose tensors become gigabytes when they are copied."""
    wide = torch.zeros(1024).as_strided((500, 500), stride)
    torch.save({**small, "encoder.blocks.0.attn.qkv.weight": wide}, tmp_path / "w.pth")
    assert (tmp_path / "w.pth").stat().st_size < wide.nbytes
    refused(tmp_path / "w.pth", "more numbers than it holds")


def test_tied_tensors_are_taken_and_many_are_not(tmp_path, small):
    """Catches a checkpoint with a second name for each tensor that is refused, and one of a megabyte with thousands."""
    torch.save({**small, **{f"ema.{name}": value for name, value in small.items()}}, tmp_path / "tied.pt")
    assert (tmp_path / "tied.pt").stat().st_size < 2 * sum(value.nbytes for value in small.values())
    assert load_weights(tmp_path / "tied.pt", config=SMALL).config == SMALL
    torch.save({**small, **{f"ema.{i}.{name}": small[name] for i in range(9) for name in small}}, tmp_path / "many.pt")
    refused(tmp_path / "many.pt", "more numbers than it holds")


def test_many_views_of_one_storage_are_refused(tmp_path, small):
    """Catches tensors of which none is larger than its storage and all together are a thousand times that."""
    storage = torch.zeros(1 << 18)
    torch.save({**small, **{f"x{i}": storage[i:] for i in range(3)}}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "more numbers than it holds")


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_folder_of_shards_says_the_cure(tmp_path, index):
    """Catches a sentence that asks for a file which the library that wrote the folder does not know."""
    (tmp_path / index).write_text("{}")
    with pytest.raises(WeightsError, match=rf"in shards \({index}\), which are not read; merge them into one file"):
        load_weights(tmp_path)


def test_a_head_is_reordered_only_once_its_kernel_is_known_to_fit(tmp_path, small, monkeypatch):
    """Catches a permutation of 3 · kernel numbers where the kernel's size is a claim: it holds no number at all."""
    monkeypatch.setattr("model.foreign_names.head_order", lambda *kernel: pytest.fail(f"an order of {kernel}"))
    kernel = torch.zeros(0, 3, 4096, 4096, 4096)
    torch.save({"encoder.patch_embed.proj.weight": kernel, "decoder.head.weight": torch.zeros(1)}, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "does not fit")


def test_compressed_entries_are_refused_before_they_are_unpacked(tmp_path, small, monkeypatch):
    """Catches a zip of a megabyte that becomes a gigabyte: torch unpacks it, and never writes one."""
    torch.save(small, tmp_path / "stored.pt")
    with (
        zipfile.ZipFile(tmp_path / "stored.pt") as stored,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert torch.load(tmp_path / "packed.pt", weights_only=True).keys() == small.keys()
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was unpacked"))
    refused(tmp_path / "packed.pt", "compressed")


NORM = "encoder.norm.bias"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (torch.zeros(24, device="meta"), "no dense tensor"),
        (torch.zeros(24).to_sparse(), "no dense tensor"),
        (torch.zeros(24, dtype=torch.complex64), "no dense tensor"),
        (torch.quantize_per_tensor(torch.zeros(24), 1.0, 0, torch.qint8), "no dense tensor"),
        (torch.zeros(24, dtype=torch.int64), "floating-point"),
    ],
    ids=["meta", "sparse", "complex", "quantized", "integer"],
)
def test_tensors_that_are_no_numbers_of_ours_are_one_sentence(tmp_path, small, value, sentence):
    """Catches torch's tracebacks, and numbers that are silently converted."""
    torch.save({**small, NORM: value}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", sentence)


def test_keys_that_are_no_names_are_passed_over(tmp_path, small):
    """Catches an AttributeError of int."""
    torch.save({**small, 7: torch.zeros(1)}, tmp_path / "w.pt")
    assert same(load_weights(tmp_path / "w.pt", config=SMALL).state, small)


def test_a_block_of_5000_digits_and_a_bottomless_header_are_one_sentence(tmp_path, state):
    """Catches ValueError of int() and RecursionError of json."""
    torch.save({**state, f"encoder.blocks.{'9' * 5000}.x": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"1 tensors differ, the first is encoder\.blocks\.9{50,80}…"):
        load_weights(tmp_path / "w.pt")
    save_file({NORM: torch.zeros(1)}, str(tmp_path / "w.safetensors"), metadata={"marlin": "[" * 100_000})
    refused(tmp_path / "w.safetensors", "header")


def test_a_projection_without_a_decoder_is_left_out_of_the_encoder(tmp_path, small):
    """Catches a file that passes the check and then fails in load_state_dict."""
    kept = {name: value for name, value in small.items() if not name.startswith("decoder.")}
    torch.save(kept, tmp_path / "w.pt")
    assert Marlin(load_weights(tmp_path / "w.pt", config=SMALL)).as_feature_extractor


def test_files_are_read_by_several_threads_and_nothing_stays_allowed(tmp_path, small, monkeypatch):
    """Catches the first thread that ends and takes from the others what their file needs."""
    torch.save({"model": small, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    load, inside, ended, found = torch.load, threading.Event(), threading.Event(), []

    def slow_load(*args, **kwargs):
        if not inside.is_set():
            inside.set()
            second.start()
            second.join(0.5)  # time to come in
        else:
            ended.wait(5)
        return load(*args, **kwargs)

    def read() -> None:
        found.append(load_weights(tmp_path / "w.pth", config=SMALL))

    second = threading.Thread(target=read)
    monkeypatch.setattr(torch, "load", slow_load)
    read()
    ended.set()
    second.join()
    assert len(found) == 2
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_write_that_the_disk_refuses_is_one_sentence_and_leaves_the_old_file(tmp_path, small):
    """Catches SafetensorError, which is no OSError, and a file cut in half."""
    path = tmp_path / "w.safetensors"
    save_weights(path, small, SMALL, {"first": True})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WeightsError, match="cannot be written"):
            save_weights(path, small, SMALL, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert load_weights(path).provenance == {"first": True}
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path, small, there):
    """Catches an export into a shared folder that ends up beside the link to it, with the old file still shared."""
    shared, link = tmp_path / "shared" / "w.safetensors", tmp_path / "w.safetensors"
    shared.parent.mkdir()
    if there:
        shared.write_bytes(b"old")
    link.symlink_to(Path("shared") / "w.safetensors")
    save_weights(link, small, SMALL, {"new": True})
    assert link.is_symlink()
    assert load_weights(shared).provenance == {"new": True}
    assert os.listdir(shared.parent) == ["w.safetensors"]


SHAPED = model_config(
    "marlin_vit_tiny", image_size=112, frames=8, encoder_heads=6, encoder_depth=2, decoder_heads=4, mlp_ratio=2
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A Hugging Face folder of a network of none of the named shapes, and its own file beside it."""
    torch.manual_seed(0)
    save_weights(tmp_path / "own.safetensors", build_mae(SHAPED).state_dict(), SHAPED, {})
    return export_weights(tmp_path / "own.safetensors", "huggingface", tmp_path / "folder")


@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_huggingface_folder_brings_its_own_shape(folder, tmp_path, named):
    """Catches 224 pixels, 16 frames and the named size's heads for every folder: other features, without a word."""
    path = folder if named == "folder" else folder / "model.safetensors"
    theirs, own = Marlin(load_weights(path)).eval(), Marlin(load_weights(tmp_path / "own.safetensors")).eval()
    assert theirs.config == own.config.model_copy(update={"name": "videomae"})
    clip = torch.rand(1, 3, 8, 112, 112)
    assert torch.equal(theirs.extract_features(clip), own.extract_features(clip))


def test_a_folder_of_a_named_width_and_depth_has_the_size_s_name(tmp_path):
    """Catches a folder that cannot be loaded as what it was exported from."""
    config = model_config("marlin_vit_tiny", image_size=112, frames=8, encoder_heads=6)
    state = {f"encoder.{name}": value for name, value in build_encoder(config).state_dict().items()}
    save_weights(tmp_path / "own.safetensors", state, config, {})
    folder = export_weights(tmp_path / "own.safetensors", "huggingface", tmp_path / "folder")
    assert load_weights(folder, "marlin_vit_tiny_ytf").config == config


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"intermediate_size": 100}, "mlp_ratio"),
        ({"hidden_size": 0}, "no widths"),
        ({"hidden_size": "wide"}, "no widths"),
        ({"image_size": [112, 224]}, "image_size"),
        ({"num_attention_heads": 7}, "not a multiple of encoder_heads 7"),
        ({"num_frames": 1 << 40}, "frames"),
        ({"num_hidden_layers": 3}, "does not fit"),
    ],
)
def test_a_config_json_that_is_no_network_of_ours_is_one_sentence(folder, change, sentence):
    """Catches tracebacks, and another activation that is taken for GELU."""
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | change))
    with pytest.raises((WeightsError, ConfigError), match=sentence) as error:
        load_weights(folder)
    assert "folder" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{" + " " * (1 << 20) + "}", "\udcff"])
def test_a_config_json_that_cannot_be_read_is_one_sentence(folder, text):
    """Catches RecursionError, and a gigabyte of spaces that is read whole."""
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_weights(folder)


def test_a_config_json_s_other_eps_is_warned_of_and_square_sizes_may_be_lists(folder, caplog):
    """Catches features that differ a little from transformers' and nobody knows why."""
    with caplog.at_level(logging.WARNING):
        load_weights(folder)
        assert not caplog.records
        tree = json.loads((folder / "config.json").read_text())
        del tree["layer_norm_eps"]
        (folder / "config.json").write_text(json.dumps(tree | {"image_size": [112, 112]}))
        assert load_weights(folder).config.image_size == 112
    assert "layer_norm_eps is 1e-12" in caplog.text


@pytest.mark.parametrize("to", ["marlin-pytorch", "huggingface"])
def test_an_export_that_fails_leaves_the_old_one_whole(tmp_path, folder, monkeypatch, to):
    """Catches a target cut in half, and a new config.json beside old weights."""
    out = folder if to == "huggingface" else export_weights(tmp_path / "own.safetensors", to, tmp_path / "pt" / "w.pt")
    where = out if out.is_dir() else out.parent
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    written: list[str] = []

    def full_disk(path: Path, content: bytes) -> None:
        written.append(path.name)
        with path.open("wb") as file:
            file.write(content[: len(content) // 2 if len(written) == len(before) else None])
        if len(written) == len(before):  # the last of them
            raise OSError(28, "No space left on device")

    save_weights(tmp_path / "new.safetensors", build_mae(TINY).state_dict(), TINY, {})
    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(WeightsError, match="No space left"):
        export_weights(tmp_path / "new.safetensors", to, out)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before
