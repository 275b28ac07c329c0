"""An adapted encoder on a whole video: faces, windows, scores over time, and where they come from."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from infra.config import load_config
from infra.errors import ConfigError, MediaError, WeightsError
from infra.fetch import file_digest
from model.adapt.classifier import Classifier
from model.adapt.encoder import classifier_state, random_encoder
from model.adapt.grad_cam import grad_cam, overlay
from model.adapt.predict import predict, track_as_learnt
from model.adapt_config import PredictConfig
from model.nets.config import model_config
from model.video_windows import VideoWindows
from model.weights import load_weights, save_weights
from pipeline.config import ClipConfig, LimitConfig, TrackConfig
from pipeline.media.encode import encode_clip
from pipeline.media.video_file import write_video
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


def test_seconds_are_the_videos_own_at_a_rate_that_varies(adapted, tmp_path, monkeypatch):
    """Catches frame numbers over a mean rate: 64 frames at 30 a second and 64 at 5 put frame 64 at 7.2 s, not 2.1."""
    frames, _ = draw_face(128, 0)
    seconds = [i / 30 for i in range(64)] + [64 / 30 + i / 5 for i in range(64)]
    write_video(tmp_path / "vfr.mp4", zip(seconds, frames, strict=True), 30.0)
    drawn = []
    monkeypatch.setattr("model.adapt.predict._draw", lambda path, plan, *_: drawn.append(plan))
    done = predict(PredictConfig(
        video=str(tmp_path / "vfr.mp4"), weights=str(adapted[0]), out=str(tmp_path / "out"), crop="none", device="cpu",
        annotate=False,
    ))  # fmt: skip
    windows = json.loads(done.scores.read_text())["faces"][0]["windows"]
    starts = {w["start_frame"]: w["start_s"] for w in windows}
    assert starts == pytest.approx({frame: seconds[frame] for frame in (0, 32, 64, 97)}, abs=0.01)
    assert windows[0]["end_s"] == pytest.approx(seconds[31], abs=0.01)
    assert drawn[0].seconds(64) == pytest.approx(64 / 30, abs=0.01)
    assert drawn[0].seconds(128) > seconds[-1]


def test_two_videos_of_one_name_keep_their_files(adapted, tmp_path):
    """Catches a second video's scores, plot and pictures written over the first's."""
    video, other = (tmp_path / name / "v.mp4" for name in ("one", "other"))
    for seed, path in enumerate((video, other)):
        path.parent.mkdir()
        path.write_bytes(encode_clip(draw_face(32, seed)[0], 25.0, ClipConfig()))
    out = tmp_path / "out"
    given = {"weights": str(adapted[0]), "out": str(out), "crop": "none", "device": "cpu", "explain": "hat"}
    first, second, again = (predict(PredictConfig(video=str(path), **given)) for path in (video, other, video))
    assert again.scores == first.scores == out / "v.json"
    digest = file_digest(other)
    assert json.loads(second.scores.read_text())["sha256"] == digest
    endings = (".json", ".png", "-annotated.mp4", "-cam.png")
    stems = ("v", f"v-{digest[:8]}")
    assert sorted(path.name for path in out.iterdir()) == sorted(stem + end for stem in stems for end in endings)


def test_faces_are_cut_out_as_in_the_dataset_that_was_adapted_on():
    """Catches an encoder that learnt from wide crops and is shown narrow ones."""
    told = {"crop": {"track": {**TrackConfig(margin=1.8, smooth_s=0.2).model_dump(mode="json"), "dropped_since": 1}}}
    assert track_as_learnt(PredictConfig(), told) == TrackConfig(margin=1.8, smooth_s=0.2)
    mine = load_config(PredictConfig, None, ["track.margin=1.1"])
    assert track_as_learnt(mine, told) == TrackConfig(margin=1.1, smooth_s=0.2)
    assert track_as_learnt(mine, {}) == track_as_learnt(mine, {"crop": {"track": 5}}) == TrackConfig(margin=1.1)


@pytest.mark.parametrize(
    ("crop", "sentence"),
    [
        ({}, r"does not say how the faces .* \(margin 1\.3\); set track"),
        ({"track": {"margin": 1.8}, "detector": "retinaface_resnet50"}, "faces that retinaface_resnet50 found"),
        (
            {"track": {"margin": 1.8}, "faces": {"kind": "facexlib", "detector": "retinaface_resnet50", "gone": 1}},
            "faces that retinaface_resnet50 found",
        ),
        ({"track": {"margin": 1.8}, "faces": {"kind": "embedded", "gone_since": 1}}, None),
    ],
)
def test_other_crops_than_were_learnt_from_are_warned_of(adapted, sample_videos, tmp_path, caplog, crop, sentence):
    """Catches scores of faces that look different from what was learnt, without a word; and the margin not taken."""
    loaded = load_weights(adapted[0])
    save_weights(tmp_path / "w.safetensors", loaded.state, loaded.config, {**loaded.provenance, "crop": crop})
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "model.adapt.predict.VideoWindows",
            lambda settings: seen.append(settings) or VideoWindows(settings),
        )
        predict(PredictConfig(
            video=str(next(sample_videos.glob("*single_face*.mp4"))), weights=str(tmp_path / "w.safetensors"),
            out=str(tmp_path / "out"), crop="face", device="cpu", annotate=False, window_stride=64,
        ))  # fmt: skip
    assert seen[0].track.margin == crop.get("track", {}).get("margin", 1.3)
    assert (re.search(sentence, caplog.text) is not None) if sentence else not caplog.text


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
