"""A small dataset of drawn faces, written by the dataset's own writer: four videos, ten clips of 64 frames."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.storage import open_storage
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.weights import save_weights
from pipeline.config import ClipConfig
from pipeline.dataset.format import clip_key, work_key
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.sample import meta_to_bytes, regions_to_bytes
from pipeline.dataset.tar import TarWriter
from pipeline.dataset.units import Units
from pipeline.dataset.versions import DatasetVersion, publish_version
from pipeline.dataset.work import CLIPS, REGIONS, write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.faces.regions import to_bits
from pipeline.media.encode import encode_clip
from pipeline.rows import ClipMeta, Quality, VideoOutcome

UNIT = "a" * 32
RECIPE = "0" * 64


def draw_face(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a moving drawn face, uint8 (F, 224, 224, 3), and its label maps uint8 (ceil(F/4), 224, 224)."""
    rng = np.random.default_rng(seed)
    background, skin = rng.integers(30, 120, 3), rng.integers(140, 220, 3)
    colours = np.array([background, skin, skin, skin, [40, 30, 30], [40, 30, 30], skin * 0.85, [170, 70, 80]])
    shade = np.clip(colours + np.arange(24)[:, None, None] - 12, 0, 255).astype(np.uint8)
    texture_HW = rng.integers(0, 24, (224, 224))
    y, x = np.ogrid[0:224, 0:224]
    images, maps = [], []
    for f in range(frames):
        cx, cy = 112 + 6 * np.sin(f / 9 + seed), 116 + 3 * np.cos(f / 7)
        labels_HW = np.zeros((224, 224), np.uint8)
        labels_HW[((x - cx) / 62) ** 2 + ((y - cy) / 80) ** 2 < 1] = 1
        for label, dx, dy, rx, ry in ((5, -24, -20, 11, 6), (4, 24, -20, 11, 6), (6, 0, 5, 9, 18), (7, 0, 40, 22, 8)):
            labels_HW[((x - cx - dx) / rx) ** 2 + ((y - cy - dy) / ry) ** 2 < 1] = label
        images.append(shade[texture_HW, labels_HW])
        if f % 4 == 0:
            maps.append(labels_HW)
    return np.stack(images), np.stack(maps)


def write_dataset(folder: Path, videos: dict[str, int], labels: dict[str, dict] | None = None) -> Path:
    """``videos``: name → clips of 64 frames; ``labels``: name → labels of its clips, also ``identity``, ``split``."""
    storage = open_storage(str(folder))
    scratch = folder.parent / f"{folder.name}-scratch"
    scratch.mkdir()
    digests = []
    for seed, (name, count) in enumerate(videos.items()):
        video = hashlib.sha256(name.encode()).hexdigest()
        digests.append(video)
        its_labels = dict((labels or {}).get(name, {}))
        identity, split = its_labels.pop("identity", None), its_labels.pop("split", "train")
        images, maps = draw_face(64 * count, seed)
        with TarWriter(scratch / "c.tar") as clips, TarWriter(scratch / "r.tar") as regions:
            for i in range(count):
                meta = ClipMeta(
                    key=clip_key(video, 0, 64 * i, RECIPE), video=video, name=f"{name}.mp4", track=0,
                    start_frame=64 * i, end_frame=64 * (i + 1), fps=25.0, source_width=640, source_height=360,
                    crops=[(0, 0, 224, 224)] * 64, landmarks=[[(0, 0)] * 5] * 64,
                    quality=Quality(score=1, face_px=100, blur=50, exposure=120),
                    detector="drawn", parser="drawn", recipe=RECIPE, split=split, identity=identity,
                    labels=its_labels,
                )  # fmt: skip
                clips.add(meta.key + ".json", meta_to_bytes(meta))
                clips.add(meta.key + ".mp4", encode_clip(images[64 * i : 64 * (i + 1)], 25.0, ClipConfig()))
                regions.add(meta.key + ".regions.npy.gz", regions_to_bytes(to_bits(maps[16 * i : 16 * (i + 1)])))
        storage.upload(scratch / "c.tar", work_key(UNIT, video, CLIPS))
        storage.upload(scratch / "r.tar", work_key(UNIT, video, REGIONS))
        write_outcome(storage, UNIT, VideoOutcome(video=video, name=f"{name}.mp4", bytes=1, clips=count))
    entry = write_unit(storage, UNIT, digests, scratch)
    publish_version(
        storage,
        DatasetVersion(
            version=1, parent=None, created="2026-01-01T00:00:00+00:00", recipe={}, recipe_digest=RECIPE,
            faces="drawn", licences=(), source_licences=("drawn for tests",), units=Units.of([entry]),
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def drawn_dataset(tmp_path_factory) -> Path:
    """Folder of a dataset version: four videos with 4, 2, 2 and 2 clips."""
    return write_dataset(tmp_path_factory.mktemp("drawn") / "dataset", {"anna": 4, "bela": 2, "cleo": 2, "dora": 2})


@pytest.fixture(scope="session")
def labelled_dataset(tmp_path_factory) -> Path:
    """Folder of a dataset version with FaceForensics++-like labels: a real video and the fake made of it, twice."""
    labels = {
        "r0": {"label": "real", "identity": "p0"}, "f0": {"label": "fake", "identity": "p0"},
        "r1": {"label": "real", "identity": "p1"}, "f1": {"label": "fake", "identity": "p1"},
    }  # fmt: skip
    return write_dataset(tmp_path_factory.mktemp("labelled") / "dataset", dict.fromkeys(labels, 4), labels)


@pytest.fixture
def reader(drawn_dataset) -> DatasetReader:
    """The drawn dataset, open."""
    return open_dataset(str(drawn_dataset))


TINY = {"image_size": 64, "encoder_dim": 48, "encoder_depth": 2, "decoder_dim": 32, "decoder_depth": 1}


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """Weights of a very small network, as pretraining leaves them."""
    torch.manual_seed(7)
    config = model_config("marlin_vit_tiny", **TINY)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    facts = {
        "dataset": "somewhere", "dataset_version": 1, "source_licence": "drawn for tests",
        "licences": [{"part": "detector", "licence": "MIT; trained on WIDER FACE (non-commercial research)"}],
    }  # fmt: skip
    save_weights(path, build_mae(config).state_dict(), config, facts)
    return path
