"""Every task from its dataset's own folders to its measures: real faces, made-up labels, a very small encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infra.ray_session import ray_session
from model.adapt.run import adapt
from model.adapt_config import AdaptConfig
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from pipeline.config import IngestConfig, SplitConfig
from pipeline.ingest import ingest
from tests.support.layouts import ACTION, APPEARANCE, CelebClip, celebvhq, faceforensics, mosei, split_list

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BOX = (0.45, 0.0, 0.95, 1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = model_config("marlin_vit_tiny", image_size=64, encoder_dim=48, encoder_depth=2, decoder_dim=32)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(path, build_mae(config).state_dict(), config, {"source_licence": "none", "licences": []})
    return path


@pytest.fixture(scope="module")
def dataset(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebV-HQ, CMU-MOSEI and FaceForensics++ as their owners lay them out, ingested into one dataset."""
    root, out = tmp_path_factory.mktemp("layouts"), tmp_path_factory.mktemp("out")
    names = {"wolf": "WolfgangLanger_Pexels.mp4", "single": "single_face.mp4", "late": "noface_face.mov"}
    names["early"] = "face_noface.mov"

    def video(name: str, owner: bytes) -> bytes:
        """A file of its own for each dataset (an empty box at its end): the same bytes are one video to ingestion."""
        return (sample_videos / names[name]).read_bytes() + b"\x00\x00\x00\x0cfree" + owner

    celebs = {"a": "wolf", "b": "single", "c": "late", "d": "early"}
    clips = {
        "a_0": CelebClip("a", 1.0, 4.0, BOX, ("male", "young"), ("talk",)),
        "b_0": CelebClip("b", 0.0, 2.4, appearance=("young",), action=("smile", "talk")),
        "c_0": CelebClip("c", 2.0, 6.0, appearance=("male",), action=("smile",)),
        "d_0": CelebClip("d", 0.0, 4.0, appearance=("young",), action=("talk",)),
    }
    celebvhq(
        root / "celebvhq",
        clips,
        {f"raw/{k}.mp4": video(v, b"cele") for k, v in celebs.items()},
    )
    rows = {"x": [[2.2, 1, 0, 0, 0.4, 0, 0]], "y": [[-1.4, 0, 2, 1, 0, 0, 0]], "z": [[0, 0.6, 0, 0, 0, 1, 0]]}
    mosei(
        root / "mosei", rows, {f"{k}_0": video(v, b"mose") for k, v in (("x", "wolf"), ("y", "single"), ("z", "early"))}
    )
    originals = {"004": video("wolf", b"ffpp"), "005": video("single", b"ffpp")}
    faceforensics(root / "ffpp", originals, {"004_005": video("late", b"ffpp"), "005_004": video("early", b"ffpp")})
    lists = {
        "celebvhq": {"train": ["a_0", "b_0"], "test": ["c_0", "d_0"]},
        "mosei": {"train": ["x", "y"], "test": ["z"]},
    }
    official = {
        name: {split: split_list(out / f"{name}-{split}.json", names) for split, names in its.items()}
        for name, its in lists.items()
    }
    cfg = IngestConfig(sources=(str(root),), out=str(out / "d"), split=SplitConfig(official=official))  # type: ignore[arg-type]
    with ray_session(2):
        ingest(cfg)
    return Path(cfg.out)


def _adapt(task: str, dataset: Path, weights: Path, run: Path, **data: object):
    tree = {
        "task": task, "weights": str(weights), "cache": str(run.parent / "cache"), "device": "cpu", "threads": 1,
        "data": {"dataset": str(dataset), "allow_partial": True, "split": "time", "gap_frames": 0, **data},
        "probe": {"epochs": 20}, "finetune": {"enabled": False}, "bootstrap": 100,
    }  # fmt: skip
    return adapt(AdaptConfig.model_validate(tree), run)


@pytest.mark.parametrize(
    ("task", "outputs", "measures"),
    [
        ("appearance", tuple(sorted(APPEARANCE)), {"accuracy", "auc", "macro_auc"}),
        ("action", tuple(sorted(ACTION)), {"accuracy", "auc", "macro_auc"}),
        ("emotion", ("happy", "sad", "anger", "surprise", "disgust", "fear"), {"accuracy", "auc", "weighted_f1"}),
        ("sentiment7", ("-3", "-2", "-1", "0", "+1", "+2", "+3"), {"accuracy", "weighted_f1", "mae"}),
        ("sentiment2", ("non-negative",), {"accuracy", "auc", "weighted_f1"}),
        ("deepfake", ("fake",), {"accuracy", "auc"}),
    ],
)
def test_every_task_is_read_from_its_own_layout(task, outputs, measures, dataset, weights, tmp_path_factory):
    """Catches labels lost between folder, manifest and task, or read from a neighbouring dataset."""
    report = _adapt(task, dataset, weights, tmp_path_factory.getbasetemp() / f"run-{task}")
    row = report.rows[0]
    assert report.outputs == outputs
    assert measures <= set(row.measures)
    assert {"appearance": 4, "action": 4, "deepfake": 4}.get(task, 3) == report.videos
    assert any("clips without a label" in note for note in report.notes), "the other datasets' clips are counted"
    if report.kind == "multilabel":
        assert set(row.per_output) == set(outputs)
    if task == "deepfake":
        assert set(row.by_manipulation) == {"Deepfakes"}


def test_the_official_split_is_kept(dataset, weights, tmp_path):
    """Catches a split of our own where the dataset has one: test numbers would not be comparable."""
    report = _adapt("appearance", dataset, weights, tmp_path / "run", split="manifest")
    assert report.split.startswith("tested on the dataset's own split")
    assert report.rows[0].videos_test == 2
