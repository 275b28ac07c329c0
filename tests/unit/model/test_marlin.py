"""The library's door: names, files, polarity, gradients, and arguments that cannot work."""

import argparse
import hashlib
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from infra.errors import ConfigError, WeightsError
from model import Marlin
from model.clip_stream import WindowPixels
from model.nets.config import ModelConfig, model_config
from model.nets.factory import build_discriminator, build_encoder, build_mae
from model.online import online_folder
from model.weights import save_weights
from pipeline.config import FacexlibFaces
from tests.support.marlin_shapes import write_shape

TINY = model_config("marlin_vit_tiny")
SMALL = ModelConfig(
    name="mine", encoder_dim=48, encoder_depth=2, encoder_heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2
)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test may see the registrations or the cache of another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("model.online._registry", {})


@pytest.fixture
def small(tmp_path) -> Path:
    """A full model of a registered shape, with its discriminator, in a Lightning checkpoint."""
    torch.manual_seed(0)
    state = build_mae(SMALL).state_dict()
    state |= {f"discriminator.{name}": value for name, value in build_discriminator(SMALL).state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "small.ckpt")
    model.register_model_from_yaml("mine", write_shape(tmp_path / "shape.yaml"))
    return tmp_path / "small.ckpt"


@pytest.fixture
def marlin(small) -> Marlin:
    return Marlin.from_file("mine", small)


def clip(batch: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(batch, 3, 16, 224, 224)


@pytest.mark.parametrize("name", ["marlin_vit_tiny", "marlin_vit_tiny_ytf"])
@pytest.mark.parametrize("kind", ["tiny.pt", "tiny.ckpt", "tiny.pth", "tiny.safetensors", "run", "step-000010"])
def test_every_kind_of_file_loads_under_both_kinds_of_name(tmp_path, name, kind):
    """Catches a kind of file that only part of the code reads."""
    encoder = {f"encoder.{key}": value for key, value in build_encoder(TINY).state_dict().items()}
    path = tmp_path / kind
    if kind == "tiny.pth":
        theirs = {key: value for key, value in encoder.items() if not key.endswith("emb")}
        for ours, other in (("patch_embedding.projection", "patch_embed.proj"), ("layers.0.linear", "fc1")):
            theirs = {key.replace(ours, other): value for key, value in theirs.items()}
        theirs = {key.replace("layers.1.linear", "fc2"): value for key, value in theirs.items()}
        torch.save({"model": theirs, "args": argparse.Namespace(lr=1)}, path)
    elif path.suffix in (".pt", ".ckpt"):
        torch.save({"state_dict": encoder} if path.suffix == ".ckpt" else encoder, path)
    else:
        save_weights(path if path.suffix else path / "weights.safetensors", encoder, TINY, {})
    loaded = Marlin.from_file(name, path)
    assert loaded.as_feature_extractor
    assert (loaded.clip_frames, loaded.device.type) == (16, "cpu")
    assert all(torch.equal(value, encoder[key]) for key, value in loaded.state_dict().items())


def test_parameters_have_the_names_of_marlin_pytorch(marlin):
    """Catches parameters under two names, which optimisers and state dicts would see twice."""
    assert marlin.state_dict().keys() == build_mae(SMALL).state_dict().keys()
    assert not marlin.as_feature_extractor


def test_a_mask_shows_where_it_is_true(marlin):
    """Catches the polarity: their True is visible, everything inside has True = hidden."""
    network = build_mae(SMALL)
    network.load_state_dict(marlin.state_dict())
    visible = torch.zeros(2, 1568, dtype=torch.bool)
    visible[0, :156] = visible[1, -156:] = True
    prediction = marlin(clip(2), visible)
    assert prediction.shape == (2, 1412, 1536)
    assert torch.equal(prediction, network(clip(2), ~visible).pred_BMP)


def test_clips_with_different_numbers_of_visible_tokens_are_refused(marlin):
    """Catches tokens of one clip that slip into the other: 100 + 212 visible ones make a rectangle of 2 × 156."""
    visible = torch.zeros(2, 1568, dtype=torch.bool)
    visible[0, :100] = visible[1, :212] = True
    with pytest.raises(ValueError, match="as many tokens"):
        marlin(clip(2), visible)


def test_features_carry_gradients_in_training_mode_only(marlin):
    """Catches fine-tuning that trains the head alone, and `.numpy()` that fails on features, both as in theirs."""
    assert marlin.training
    marlin.extract_features(clip(), keep_seq=False)[0, 0].backward()
    assert marlin.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    marlin.eval()
    assert marlin.extract_features(clip()).numpy().shape == (1, 1568, 48)
    assert marlin.extract_features((clip() * 255).to(torch.uint8), keep_seq=False).shape == (1, 48)


def test_an_encoder_alone_cannot_reconstruct_and_says_so(tmp_path):
    """Catches an attribute error on None."""
    save_weights(
        tmp_path / "w.safetensors",
        {f"encoder.{key}": value for key, value in build_encoder(SMALL).state_dict().items()}, SMALL, {},
    )  # fmt: skip
    model.register_model_from_yaml("mine", write_shape(tmp_path / "shape.yaml"))
    with pytest.raises(WeightsError, match="encoder alone"):
        Marlin.from_file("mine", tmp_path / "w.safetensors")(clip(), torch.ones(1, 1568, dtype=torch.bool))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": None}, "lacks encoder.embed_dim"),
        ({"decoder": {"embed_dim": 32, "depth": 1}}, "lacks decoder.num_heads"),
        ({"qkv_bias": False}, "qkv_bias is False"),
        ({"init_values": 0.1}, "init_values"),
        ({"encoder": {"embed_dim": 50, "depth": 2, "num_heads": 3}}, "encoder_dim 50 is not a multiple"),
        ({"url": "https://host/w.pt"}, "go together"),
        ({"url": "https://host/..", "sha256": "0" * 64}, "name of a weight file"),
    ],
)
def test_a_shape_that_cannot_be_built_is_one_sentence(tmp_path, changes, sentence):
    """Catches a wrong network that is built without a word."""
    with pytest.raises(ConfigError, match=sentence):
        model.register_model_from_yaml("mine", write_shape(tmp_path / "shape.yaml", **changes))


def test_a_shape_file_runs_no_code(tmp_path):
    """Catches yaml.Loader, which marlin-pytorch uses."""
    (tmp_path / "evil.yaml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(ConfigError, match="cannot be read"):
        Marlin.register_model_from_yaml("mine", tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_another_shape_than_the_registered_one_is_refused(tmp_path):
    """Catches a registered shape that is not looked at when the file brings its own."""
    save_weights(tmp_path / "tiny.safetensors", build_mae(TINY).state_dict(), TINY, {})
    model.register_model_from_yaml("mine", write_shape(tmp_path / "shape.yaml"))
    with pytest.raises(WeightsError, match="another network"):
        Marlin.from_file("mine", tmp_path / "tiny.safetensors")


def test_a_registered_address_is_fetched_once_and_checked(tmp_path, small):
    """Catches bytes of another digest, and a download for every call."""
    address = {"url": str(small), "sha256": hashlib.sha256(small.read_bytes()).hexdigest()}
    model.register_model_from_yaml("mine", write_shape(tmp_path / "a.yaml", **address))
    assert not Marlin.from_online("mine").as_feature_extractor
    small.unlink()
    Marlin.from_online("mine")
    Marlin.clean_cache()
    assert not online_folder().exists()
    small.write_bytes(b"tampered")
    with pytest.raises(WeightsError, match="sha256"):
        Marlin.from_online("mine")


def test_a_released_name_is_fetched_from_its_release_and_other_names_are_refused(tmp_path, monkeypatch):
    """Catches a wrong file name; the release itself stands in a folder here."""
    config = model_config("marlin_vit_small")
    torch.save(build_mae(config).state_dict(), tmp_path / "marlin_vit_small_ytf.full.pt")
    monkeypatch.setattr("model.online._RELEASE", str(tmp_path))
    assert not Marlin.from_online("marlin_vit_small_ytf", full_model=True).as_feature_extractor
    with pytest.raises(WeightsError, match=r"encoder\.pt could not be had"):
        Marlin.from_online("marlin_vit_small")
    with pytest.raises(ConfigError, match="marlin_vit_base_ytf"):
        Marlin.from_online("marlin_vit_giant")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reduction": "sum"}, "none, mean or max"),
        ({"stride": 0}, "at least 1"),
        ({"detector_device": "cuda:99", "faces": FacexlibFaces()}, "cuda:99"),
        ({"detector_device": "nonsense"}, "not a device name"),
    ],
)
def test_arguments_that_cannot_work_are_one_sentence(marlin, settings, sentence):
    """Catches marlin-pytorch's silent 'none' for an unknown reduction, and a device that is not looked at."""
    with pytest.raises(ConfigError, match=sentence):
        marlin.extract_video("video.mp4", crop_face=True, **settings)


def test_faces_of_a_real_video_are_found_and_cropped(marlin, sample_videos):
    """Catches a detector that is never asked, and features of the whole frame in place of the face."""
    path = next(sample_videos.glob("*single_face*.mp4"))
    faces = marlin.extract_video(path, crop_face=True, detector_device="cpu")
    whole = marlin.extract_video(path)
    assert faces.shape[1:] == whole.shape[1:] == (48,)
    assert (faces[0] - whole[0]).abs().max() > 1e-3
    assert not marlin.training  # as in theirs


def test_a_mask_or_clips_of_another_size_are_refused(marlin):
    """Catches a short mask, for which the last patches count as neither visible nor hidden."""
    with pytest.raises(ValueError, match=r"mask is \(1, 1567\)"):
        marlin(clip(), torch.ones(1, 1567, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"the network takes \(B, 3, 16, 224, 224\)"):
        marlin(torch.rand(1, 3, 18, 224, 224), torch.arange(1568)[None] < 156)


def test_a_bad_download_names_the_cure_and_the_cure_works(tmp_path, monkeypatch):
    """Catches a login page, fetched in place of weights, that stays in the cache for good."""
    monkeypatch.setattr("model.online._RELEASE", str(tmp_path))
    released = tmp_path / "marlin_vit_small_ytf.encoder.pt"
    released.write_bytes(b"<html>log in</html>")
    with pytest.raises(WeightsError, match=r"Marlin\.clean_cache\(\) removes it"):
        Marlin.from_online("marlin_vit_small")
    config = model_config("marlin_vit_small", encoder_depth=12)
    torch.save({f"encoder.{key}": value for key, value in build_encoder(config).state_dict().items()}, released)
    Marlin.clean_cache()
    assert Marlin.from_online("marlin_vit_small").as_feature_extractor


def test_clean_cache_says_what_it_did_unless_it_is_asked_not_to(caplog):
    """Catches a TypeError for people who call it as marlin-pytorch has it."""
    caplog.set_level("INFO", "model.marlin")
    for verbose, lines in ((True, 1), (False, 0)):
        caplog.clear()
        online_folder().mkdir(parents=True)
        Marlin.clean_cache(verbose=verbose)
        assert not online_folder().exists()
        assert len(caplog.records) == lines


@pytest.mark.parametrize("reduction", ["none", "mean", "max"])
def test_rows_of_a_video_are_let_go_as_they_come(marlin, monkeypatch, reduction):
    """Catches a GPU that holds every row of a long video, and then all of them twice."""
    windows = [WindowPixels(row, np.zeros((16, 224, 224, 3), np.uint8)) for row in (1, 0, 3, 2, 4, 5, 7, 6)]
    rows = np.random.default_rng(0).normal(size=(8, 48)).astype(np.float32)
    kept: list[weakref.ref[np.ndarray]] = []

    def features(self: Marlin, clip_BCTHW: torch.Tensor, keep_seq: bool) -> torch.Tensor:
        assert sum(ref() is not None for ref in kept) <= 2
        values_1D = rows[None, windows[len(kept)].row].copy()
        kept.append(weakref.ref(values_1D))
        return torch.from_numpy(values_1D)

    monkeypatch.setattr(Marlin, "extract_features", features)
    monkeypatch.setattr("model.marlin.VideoFrames", lambda path: None)
    monkeypatch.setattr("model.marlin.probe", lambda path, limit: None)
    monkeypatch.setattr("model.marlin.plan_video", lambda *args, **kwargs: argparse.Namespace(windows=windows))
    monkeypatch.setattr("model.marlin.window_stream", lambda *args: iter(windows))
    wanted = {"none": rows, "mean": rows.mean(axis=0), "max": rows.max(axis=0)}[reduction]
    found = marlin.extract_video("v.mp4", reduction=reduction)
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(wanted, abs=1e-6)
