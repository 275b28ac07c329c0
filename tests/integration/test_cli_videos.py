"""The command line on real videos: the files that ``extract`` writes, as programs read them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import nn

from flows.cli import main
from model.adapt.classifier import Classifier
from model.adapt.encoder import classifier_state, random_encoder
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import probe

STRIDE = 2
SPAN = 31
"""Frames from the first to the last of a window: 16 at stride 2."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = model_config("marlin_vit_tiny", image_size=32, encoder_depth=1, decoder_depth=1)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, build_mae(config).state_dict(), config, {})
    return path


def shown_at(video: Path) -> list[float]:
    """When each frame is shown, in seconds from the file's start."""
    with av.open(str(video)) as file:
        begin = (file.start_time or 0) / av.time_base
        return [float(frame.time) - begin for frame in file.decode(video=0)]


def test_clashing_stems_get_their_digest_and_the_tail_of_each_video_is_kept(
    sample_videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches one video's features written over another's, and frames at the end that no row covers."""
    places = [tmp_path / "a" / "face.mp4", tmp_path / "b" / "FACE.mov", tmp_path / "c" / "alone.mov"]
    for place, name in zip(places, ("WolfgangLanger_Pexels.mp4", "face_noface.mov", "noface_face.mov"), strict=True):
        place.parent.mkdir()
        shutil.copyfile(sample_videos / name, place)
    out = tmp_path / "out"
    code = main(["extract", *map(str, places), "--weights", str(weights), "--out", str(out), "--crop", "none"])
    assert code == 0, capsys.readouterr().err
    digests = [hashlib.sha256(place.read_bytes()).hexdigest() for place in places]
    stems = [f"face-{digests[0][:8]}", f"FACE-{digests[1][:8]}", "alone"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        stem + ending for stem in stems for ending in (".json", ".npy")
    )
    for stem, digest, place in zip(stems, digests, places, strict=True):
        facts, features_ND = json.loads((out / f"{stem}.json").read_text()), np.load(out / f"{stem}.npy")
        windows = facts["windows"]
        assert facts["sha256"] == digest
        assert features_ND.shape == (len(windows), model_config("marlin_vit_tiny").encoder_dim)
        assert windows[0]["start_frame"] == 0
        assert facts["frames"] - windows[-1]["end_frame"] < STRIDE
        assert all(window["end_frame"] - window["start_frame"] == SPAN for window in windows)
        seconds_F = shown_at(place)  # not frame over rate: the rate of two of these varies
        assert [window["start_s"] for window in windows] == pytest.approx(
            [seconds_F[window["start_frame"]] for window in windows], abs=1e-3
        )
        assert {window["track"] for window in windows} == {None}


def test_a_video_without_a_face_is_reported_and_no_failure(
    sample_videos: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 with the reason in the record, and no features that a program could take for some."""
    video = sample_videos / "no_face.mp4"
    code = main(["extract", str(video), "--weights", str(weights), "--out", str(tmp_path), "--crop", "face"])
    assert (code, "rejected (no_face)" in capsys.readouterr().out) == (0, True)
    assert [path.name for path in tmp_path.iterdir()] == ["no_face.json"]
    facts = json.loads((tmp_path / "no_face.json").read_text())
    assert (facts["reject"], facts["windows"]) == ("no_face", [])


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = model_config("marlin_vit_tiny", image_size=32, encoder_depth=1, decoder_depth=1)
    torch.manual_seed(0)
    classifier = Classifier(random_encoder(config, 0), nn.Linear(config.encoder_dim, 1))
    path = tmp_path_factory.mktemp("adapted") / "adapted.safetensors"
    task = {"name": "deepfake", "kind": "binary", "outputs": ["fake"]}
    save_weights(path, classifier_state(classifier), config, {"task": task, "adapted_on_licences": ["drawn"]})
    return path


def test_a_prediction_is_drawn_into_the_video_where_its_json_says(
    sample_videos: Path, adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches boxes of another frame or face, frames that are lost, and options that are no longer optional."""
    video = sample_videos / "single_face.mp4"
    code = main(["predict", str(video), "--weights", str(adapted), "--out", str(tmp_path), "device=cpu"])
    assert code == 0, capsys.readouterr().err
    (face,) = json.loads((tmp_path / "single_face.json").read_text())["faces"]
    made = tmp_path / "single_face-annotated.mp4"
    before, after = probe(str(video)), probe(str(made))
    assert (after.width, after.height, after.frames) == (before.width, before.height, before.frames)
    assert after.fps == pytest.approx(before.fps)
    changed = [
        np.abs(now.astype(int) - then).max(axis=-1)
        for (_, now), (_, then) in zip(*(VideoFrames(str(path)).iter_timed() for path in (made, video)), strict=True)
    ]

    def is_drawn(changed_HW: np.ndarray, x: int, y0: int, y1: int) -> bool:
        return bool(np.median(changed_HW[y0 + 40 : y1 - 5, x]) > 20)

    for number, box in enumerate(face["boxes"], face["start_frame"]):
        x0, y0, x1, y1 = np.round(box).astype(int)
        assert is_drawn(changed[number], x0, y0, y1)
        assert is_drawn(changed[number], x1, y0, y1)
        assert not is_drawn(changed[number], x0 + 6, y0, y1)
        assert not is_drawn(changed[number], x1 + 5, y0, y1)
    assert {len(face["boxes"]), number + 1} == {before.frames}


def test_a_prediction_without_a_face_says_so_and_writes_nothing(
    sample_videos: Path, adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = sample_videos / "no_face.mp4"
    code = main(["predict", str(video), "--weights", str(adapted), "--out", str(tmp_path), "device=cpu"])
    assert (code, "rejected (no_face): no face in" in capsys.readouterr().out) == (0, True)
    assert list(tmp_path.iterdir()) == []
