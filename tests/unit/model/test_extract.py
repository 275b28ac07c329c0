"""``extract``: one row a window, its place in the video beside it, and videos that give none as results."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from infra.errors import ConfigError
from model import Marlin
from model.clip_stream import plan_video
from model.extract import extract
from model.extract_config import ExtractConfig
from model.weights import load_weights
from pipeline.config import ClipConfig, LimitConfig, TrackConfig
from pipeline.media.decode import VideoFrames
from pipeline.media.encode import encode_clip
from pipeline.media.probe import probe
from pipeline.rows import Detections
from tests.support.clip_dataset import drawn_face


def write_video(path: Path, frames: int, seed: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_clip(drawn_face(frames, seed)[0], 25.0, ClipConfig()))
    return path


def settings(weights: Path, tmp_path: Path, videos: Sequence[str | Path] = (), **others) -> ExtractConfig:
    named = tuple(map(str, videos))
    return ExtractConfig(videos=named, weights=str(weights), out=str(tmp_path / "out"), device="cpu", **others)


def test_rows_are_the_library_s_and_their_places_are_right(weights, tmp_path):
    """Catches rows in the order in which windows end, batches that mix them up, and spans of other frames."""
    video = write_video(tmp_path / "face.mp4", 150)
    done = extract(settings(weights, tmp_path, videos=[video], crop="none", batch=2))[0]
    features = np.load(done.features)
    wanted = Marlin(load_weights(weights)).extract_video(video, keep_tail=True)
    np.testing.assert_allclose(features, wanted.numpy(), atol=1e-5)
    spans = [(w.start_frame, w.end_frame, w.track) for w in done.windows]
    assert spans == [(0, 31, None), (32, 63, None), (64, 95, None), (96, 127, None), (119, 150, None)]
    record = json.loads(done.spans.read_text())
    assert [w["start_s"] for w in record["windows"]] == pytest.approx([w[0] / 25 for w in spans])
    assert record["weights"]["sha256"] == load_weights(weights).digest
    assert (record["crop"], record["frames"], record["reject"]) == ("none", 150, None)


def test_a_video_of_224_pixels_is_taken_as_a_face_crop_without_being_asked(weights, tmp_path):
    """Catches a second crop around a face that fills the frame."""
    done = extract(settings(weights, tmp_path, videos=[write_video(tmp_path / "face.mp4", 40)], keep_tail=False))[0]
    assert (done.crop, len(done.windows)) == ("none", 1)


def test_a_video_that_cannot_be_used_is_a_result_and_the_next_one_is_done(weights, tmp_path):
    """Catches a traceback in place of a reject, old features left beside it, and a job that stops at it."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "broken.npy").write_bytes(b"old")
    first, second = extract(settings(weights, tmp_path, videos=[broken, write_video(tmp_path / "face.mp4", 40)]))
    assert (first.features, first.reject, first.windows) == (None, "not_video", ())
    assert json.loads(first.spans.read_text())["reject"] == "not_video"
    assert not (tmp_path / "out" / "broken.npy").exists()
    assert second.features is not None


def test_videos_of_one_name_do_not_overwrite_each_other(weights, tmp_path):
    """Catches the second `a.mp4` in the place of the first, in one call and in two; upper and lower case are alike."""
    one, other = write_video(tmp_path / "1" / "a.mp4", 20, seed=1), write_video(tmp_path / "2" / "A.mp4", 20, seed=2)
    together = extract(settings(weights, tmp_path, videos=[one, other]))
    assert len({done.features.name.casefold() for done in together}) == 2
    assert all("-" in done.features.stem for done in together)
    cfg = ExtractConfig(weights=str(weights), out=str(tmp_path / "apart"), device="cpu")
    shutil.move(other, tmp_path / "2" / "a.mp4")
    first, second, again = (
        extract(cfg.model_copy(update={"videos": (str(path),)}))[0] for path in (one, tmp_path / "2" / "a.mp4", one)
    )
    assert first.features.name == again.features.name == "a.npy"
    assert second.features.name.startswith("a-")


@pytest.mark.parametrize(
    ("videos", "sentence"), [([], "no video is named"), (["absent.mp4"], "is not there"), (["."], "is a folder")]
)
def test_wrong_use_is_one_sentence_before_anything_is_written(weights, tmp_path, videos, sentence):
    """Catches a folder of results that is half done when a name turns out to be wrong."""
    with pytest.raises(ConfigError, match=sentence):
        extract(settings(weights, tmp_path, videos=videos))
    assert not (tmp_path / "out").exists()


def test_faces_are_followed_and_each_row_names_its_track(weights, tmp_path, sample_videos):
    """Catches whole frames in place of faces, and rows without a track."""
    video = next(sample_videos.glob("*single_face*.mp4"))
    done = extract(settings(weights, tmp_path, videos=[video]))[0]
    assert done.crop == "face"
    assert {window.track for window in done.windows} == {0}
    assert len(np.load(done.features)) == len(done.windows) > 1
    rejected = extract(settings(weights, tmp_path, videos=[sample_videos / "no_face.mp4"]))[0]
    assert rejected.reject == "no_face"


def test_a_video_that_is_not_held_gives_the_same_features(weights, tmp_path):
    """Catches a second pass over other frames, and a bound that nobody looks at."""
    video = write_video(tmp_path / "face.mp4", 70)
    held, twice = (
        extract(settings(weights, tmp_path / str(mb), videos=[video], limits=LimitConfig(hold_mb=mb)))[0]
        for mb in (256, 1)
    )
    np.testing.assert_array_equal(np.load(held.features), np.load(twice.features))
    frames, info = VideoFrames(str(video)), probe(str(video))
    options = {"detector": None, "track_cfg": TrackConfig(), "window_frames": 16, "keep_tail": True, "chunk": 32}
    assert plan_video(frames, info, "none", **options, hold_bytes=70 * 224 * 224 * 3).chunks is not None
    assert plan_video(frames, info, "none", **options, hold_bytes=70 * 224 * 224 * 3 - 1).chunks is None


def test_no_window_of_a_face_runs_over_a_loss(tmp_path):
    """Catches frames from before and behind a stretch that damage took, in one window."""

    class Lossy(VideoFrames):
        losses = property(lambda self: {40}, lambda self, _: None)

    class Still:
        name = "still"

        def detect(self, frames_FHWC):
            box_14 = np.array([[60, 60, 160, 160]], np.float32)
            return [Detections(box_14, np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32)) for _ in frames_FHWC]

    video = str(write_video(tmp_path / "face.mp4", 80))
    options = {"track_cfg": TrackConfig(), "window_frames": 16, "keep_tail": True, "chunk": 32, "hold_bytes": 0}
    plan = plan_video(Lossy(video), probe(video), "face", detector=Still(), **options)
    assert [(track.start, len(track.scores_F)) for track in plan.tracks] == [(0, 40), (40, 40)]
