"""An adapted encoder on a whole video: faces, windows, scores over time, and where they come from."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from infra.errors import ConfigError, MediaError, WeightsError
from model.adapt.classifier import Classifier
from model.adapt.encoder import classifier_state, random_encoder
from model.adapt.grad_cam import grad_cam, overlay
from model.adapt.predict import predict
from model.adapt_config import PredictConfig
from model.nets.config import model_config
from model.video_windows import VideoWindows
from model.weights import save_weights
from pipeline.config import ClipConfig, LimitConfig
from pipeline.media.encode import encode_clip
from pipeline.rejects import RejectError
from tests.unit.model.adapt.conftest import TINY, draw_face

CONFIG = model_config("marlin_vit_tiny", **TINY)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    torch.manual_seed(0)
    classifier = Classifier(random_encoder(CONFIG, 0), nn.Linear(48, 2))
    path = tmp_path_factory.mktemp("adapted") / "adapted.safetensors"
    task = {"name": "custom", "kind": "multilabel", "outputs": ["smile", "hat"]}
    facts = {"task": task, "adapted_on_licences": ["videos: research only"]}
    save_weights(path, classifier_state(classifier), CONFIG, facts)
    return path, classifier.eval()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames, _ = draw_face(100, 0)
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    path.write_bytes(encode_clip(frames, 25.0, ClipConfig()))
    return path


def test_every_window_has_a_score_and_a_time(adapted, video, tmp_path):
    """Catches scores in the order of decoding instead of time, and a head that is not the file's."""
    weights, classifier = adapted
    cfg = PredictConfig(
        video=str(video), weights=str(weights), out=str(tmp_path), crop="none", explain="hat", device="cpu", batch=2
    )
    done = predict(cfg)
    told = json.loads(done.scores.read_text())
    (face,) = told["faces"]
    assert [w["start_frame"] for w in face["windows"]] == [0, 32, 64, 69]
    assert face["windows"][1]["start_s"] == pytest.approx(32 / 25)
    assert set(face["mean"]) == {"smile", "hat"}
    means = np.mean([[w["scores"][o] for o in done.outputs] for w in face["windows"]], axis=0)
    assert done.faces[None] == pytest.approx(means, abs=1e-5)
    assert done.plot.read_bytes()[:4] == b"\x89PNG"
    assert done.cam is not None
    assert "may not be used commercially" in str(done.note)
    from model.data.source import resize_frames
    from pipeline.media.decode import read_frames

    clip = resize_frames(read_frames(str(video), range(32, 64, 2)), 64)
    with torch.no_grad():
        expected = torch.sigmoid(classifier(torch.from_numpy(clip)[None]))[0].tolist()
    assert list(face["windows"][1]["scores"].values()) == pytest.approx(expected, abs=1e-3)


def test_what_cannot_be_predicted_is_one_sentence(adapted, video, tiny_weights, tmp_path):
    given = {"video": str(video), "out": str(tmp_path), "crop": "none"}
    with pytest.raises(ConfigError, match="no output 'beard' to explain; there are smile, hat"):
        predict(PredictConfig(weights=str(adapted[0]), explain="beard", **given))
    with pytest.raises(WeightsError, match="no encoder that was adapted"):
        predict(PredictConfig(weights=str(tiny_weights), **given))


def test_a_video_that_crashes_the_decoder_is_a_reject(adapted, video, tmp_path, monkeypatch):
    """Catches a command, and a notebook with it, that a hostile video takes along."""
    monkeypatch.setattr(VideoWindows, "worker", "tests.support.hostile_windows:Worker")
    hostile = shutil.copy(video, tmp_path / "crash.mp4")
    cfg = PredictConfig(video=str(hostile), weights=str(adapted[0]), out=str(tmp_path / "out"), crop="none",
                        limits=LimitConfig(attempts=1), device="cpu")  # fmt: skip
    with pytest.raises(RejectError, match=r"crashed: the worker process died \(SIGABRT\)"):
        predict(cfg)
    assert not list((tmp_path / "out").iterdir())


def test_a_video_that_cannot_be_drawn_into_keeps_its_scores(adapted, video, tmp_path, monkeypatch, caplog):
    """Catches scores that are lost, or followed by a traceback, because H.264 has no sides that long."""

    def refuse(wanted, limits):
        raise MediaError("it cannot be written as H.264: too wide")

    monkeypatch.setattr("model.adapt.predict.write_annotated", refuse)
    done = predict(PredictConfig(
        video=str(video), weights=str(adapted[0]), out=str(tmp_path), crop="none", explain="hat", device="cpu"
    ))  # fmt: skip
    assert done.annotated is None
    assert done.cam.exists()
    assert "v.mp4 is not annotated: it cannot be written" in caplog.text
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png", ".png"]


def test_grad_cam_finds_the_place_that_decides():
    """Catches a map that is upside down, shifted in time, or of another output.

    The patch embedding sees red alone and the blocks do nothing, so what speaks for output 1 is the red corner.
    """
    encoder = random_encoder(CONFIG, 0)
    with torch.no_grad():
        for block in encoder.encoder.blocks:
            block.attn.proj.weight.zero_()
            block.mlp.layers[1].linear.weight.zero_()
        last = encoder.encoder.blocks[-1]
        last.attn.qkv.weight.zero_()
        last.attn.qkv.weight[96:] = torch.eye(48)
        last.attn.proj.weight.copy_(torch.eye(48))
        encoder.encoder.pos_embedding.emb.zero_()
        encoder.encoder.patch_embedding.projection.weight.zero_()
        encoder.encoder.patch_embedding.projection.weight[0, 0] = 1.0
        encoder.encoder.patch_embedding.projection.bias.normal_()
    classifier = Classifier(encoder, nn.Linear(48, 2))
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.weight[1, 0] = 1.0
    clip = np.zeros((16, 64, 64, 3), np.uint8)
    clip[8:, :16, 48:, 0] = 255
    found = grad_cam(classifier, clip, 1)
    assert found.shape == (16, 64, 64)
    t, y, x = np.unravel_index(found.argmax(), found.shape)
    assert t >= 8
    assert (y // 16, x // 16) == (0, 3)
    assert found[2].max() < found[12].max() / 2
    assert grad_cam(classifier, clip, 0).max() == 0
    assert overlay(clip, found).shape == (128, 6 * 64, 3)
