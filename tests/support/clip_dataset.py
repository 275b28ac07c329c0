"""Small dataset versions written by the dataset's own writer: numbered frames, or a drawn face that moves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from infra.storage import open_storage
from pipeline.config import ClipConfig
from pipeline.dataset.format import clip_key, work_key
from pipeline.dataset.sample import meta_to_bytes, regions_to_bytes
from pipeline.dataset.tar import TarWriter
from pipeline.dataset.units import Units
from pipeline.dataset.versions import DatasetVersion, Licence, newest_version, next_version, publish_version
from pipeline.dataset.work import CLIPS, REGIONS, write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.faces.regions import to_bits
from pipeline.media.encode import encode_clip
from pipeline.rows import ClipMeta, Quality, VideoOutcome

RECIPE = "0" * 64
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def numbered(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame f is grey level 20 + 3f everywhere; region map r has bits of the number r + 1 in every cell."""
    levels = (20 + 3 * np.arange(frames)).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (frames, 224, 224, 3))
    maps = np.arange(1, -(-frames // 4) + 1, dtype=np.uint16)
    return images, np.ascontiguousarray(np.broadcast_to(maps[:, None, None], (len(maps), 28, 28)))


def frame_number(image_HWC: np.ndarray) -> int:
    """Inverse of ``numbered`` for one decoded frame."""
    return round((float(image_HWC.mean()) - 20) / 3)


def drawn_face(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A simple face that sways, its colours and path drawn from ``seed``, and its true regions."""
    rng = np.random.default_rng(seed)
    background, skin = rng.integers(20, 110, 3), rng.integers(140, 230, 3)
    colours = np.array([background, skin, *[skin * 0.4] * 4, skin * 0.8, *[[170, 70, 80]] * 3, [50, 35, 20]])
    y, x = np.mgrid[0:224, 0:224]
    images, maps = [], []
    for f in range(frames):
        cx, cy = 112 + 12 * np.sin(f / 9 + seed), 116 + 6 * np.cos(f / 7 + seed)
        labels = np.zeros((224, 224), np.uint8)
        parts = ((10, 0, -24, 70, 76), (1, 0, 0, 62, 80), (2, 24, -34, 14, 4), (3, -24, -34, 14, 4),
                 (4, 24, -20, 11, 6), (5, -24, -20, 11, 6), (6, 0, 5, 9, 18), (7, 0, 40, 22, 8))  # fmt: skip
        for label, dx, dy, rx, ry in parts:
            labels[((x - cx - dx) / rx) ** 2 + ((y - cy - dy) / ry) ** 2 < 1] = label
        images.append(colours[labels].astype(np.uint8))
        if f % 4 == 0:
            maps.append(labels)
    return np.stack(images), to_bits(np.stack(maps))


def write_clip_dataset(folder: Path, units: Sequence[Mapping[str, Sequence[int]]], draw: Draw = numbered) -> Path:
    """Write a dataset of one version.

    Args:
        folder: where it goes.
        units: one mapping a shard: name of a video → frames of each of its clips. A name that starts with ``val`` is in
            the validation split.
        draw: (frames, seed) → images uint8 (F, 224, 224, 3) and region sets uint16 (ceil(F/4), 28, 28).
    """
    storage = open_storage(str(folder))
    scratch = folder.parent / f"{folder.name}-scratch"
    scratch.mkdir()
    entries = []
    for number, videos in enumerate(units):
        unit = f"{number:032x}"
        digests = []
        for name, lengths in videos.items():
            video = hashlib.sha256(name.encode()).hexdigest()
            digests.append(video)
            with TarWriter(scratch / "c.tar") as clips, TarWriter(scratch / "r.tar") as regions:
                for i, frames in enumerate(lengths):
                    images, maps = draw(frames, int(video[:6], 16) + i)
                    meta = _meta(name, video, 100 * i, frames)
                    clips.add(f"{meta.key}.json", meta_to_bytes(meta))
                    clips.add(f"{meta.key}.mp4", encode_clip(images, 25.0, ClipConfig()))
                    regions.add(f"{meta.key}.regions.npy.gz", regions_to_bytes(maps))
            storage.upload(scratch / "c.tar", work_key(unit, video, CLIPS))
            storage.upload(scratch / "r.tar", work_key(unit, video, REGIONS))
            write_outcome(storage, unit, VideoOutcome(video=video, name=f"{name}.mp4", bytes=1, clips=len(lengths)))
        entries.append(write_unit(storage, unit, digests, scratch))
    publish_version(
        storage,
        DatasetVersion(
            version=1, parent=None, created="2026-01-01T00:00:00+00:00", recipe={}, recipe_digest=RECIPE,
            faces="drawn", licences=(Licence(part="parser", licence="drawn by hand", source="tests", sha256=RECIPE),),
            source_licences=("drawn for tests",), units=Units.of(entries),
        ),
    )  # fmt: skip
    return folder


def _meta(name: str, video: str, start: int, frames: int) -> ClipMeta:
    return ClipMeta(
        key=clip_key(video, 0, start, RECIPE), video=video, name=f"{name}.mp4", track=0, start_frame=start,
        end_frame=start + frames, fps=25.0, source_width=640, source_height=360, crops=[(0, 0, 224, 224)] * frames,
        landmarks=[[(0, 0)] * 5] * frames, quality=Quality(score=1, face_px=100, blur=50, exposure=120),
        detector="drawn", parser="drawn", recipe=RECIPE, split="val" if name.startswith("val") else "train",
    )  # fmt: skip


def publish_again(dataset: str) -> None:
    """Publish a further version of the same units, as a night does."""
    storage = open_storage(dataset)
    newest = newest_version(storage)
    publish_version(storage, next_version(newest, newest.units, "a night"))
