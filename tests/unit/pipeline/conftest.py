"""A builder of small datasets: real tars, tables and versions around made-up clip bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from infra.storage import Storage, open_storage
from pipeline.dataset.format import clip_key, region_rows, work_key
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.sample import meta_to_bytes, regions_to_bytes
from pipeline.dataset.tar import TarWriter
from pipeline.dataset.units import ShardEntry, Units
from pipeline.dataset.versions import DatasetVersion, Licence, latest_version, publish_version
from pipeline.dataset.work import CLIPS, OUTCOME, REGIONS, outcome_to_bytes, write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.rows import ClipMeta, EncodedClip, Quality, RejectReason, VideoInfo, VideoOutcome

RECIPE = "ab" * 32


class DatasetBuilder:
    """Makes finished videos, units and versions in one store, as the stages would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.storage: Storage = open_storage(str(folder / "dataset"))
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def digest(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()

    def clip(
        self, video: str, track: int = 0, start: int = 0, frames: int = 64, split: str = "train", audio: bool = False
    ) -> EncodedClip:
        meta = ClipMeta(
            key=clip_key(self.digest(video), track, start, RECIPE),
            video=self.digest(video),
            name=f"{video}.mp4",
            track=track,
            start_frame=start,
            end_frame=start + frames,
            fps=25.0,
            source_width=640,
            source_height=360,
            crops=[(0.0, 0.0, 224.0, 224.0)] * frames,
            landmarks=[[(1.0, 2.0)] * 5] * frames,
            quality=Quality(score=0.9, face_px=100.0, blur=50.0, exposure=120.0),
            detector="test",
            parser="test",
            recipe=RECIPE,
            labels={"label": "real"},
            split=split,
            audio=audio,
        )
        return EncodedClip(meta, f"mp4 of {meta.key}".encode(), f"flac of {meta.key}".encode() if audio else None)

    def regions(self, clip: EncodedClip) -> np.ndarray:
        seed = int(hashlib.sha256(clip.meta.key.encode()).hexdigest()[:8], 16)
        shape = (region_rows(clip.meta.frames), 28, 28)
        return np.random.default_rng(seed).integers(0, 1 << 11, shape, dtype=np.uint16)

    def finish(
        self, unit: str, video: str, clips: list[EncodedClip], reject: RejectReason | None = None, content: str = ""
    ) -> str:
        """Write what the stages leave for one finished video; return its digest."""
        digest = self.digest(video)
        outcome = VideoOutcome(
            digest,
            f"{video}.mp4",
            1000,
            info=VideoInfo(640, 360, 25.0, 128),
            decoded=128,
            detected=100,
            faces=30,
            tracks=3,
            filtered={"too_short": 1, "blurred": 1},
            clips=len(clips),
            reject=reject,
            detail="because" if reject else None,
            seconds={"decode": 0.5},
            labels={"label": "real"},
            place=f"/source/{video}.mp4",
            content=content,
        )
        if clips:
            with TarWriter(self.scratch / CLIPS) as tar:
                for clip in clips:
                    tar.add(f"{clip.meta.key}.json", meta_to_bytes(clip.meta))
                    tar.add(f"{clip.meta.key}.mp4", clip.mp4)
                    if clip.flac is not None:
                        tar.add(f"{clip.meta.key}.flac", clip.flac)
                tar.add(OUTCOME, outcome_to_bytes(outcome))
            with TarWriter(self.scratch / REGIONS) as tar:
                for clip in clips:
                    tar.add(f"{clip.meta.key}.regions.npy.gz", regions_to_bytes(self.regions(clip)))
            for ending in (CLIPS, REGIONS):
                self.storage.upload(self.scratch / ending, work_key(unit, digest, ending))
        write_outcome(self.storage, unit, outcome)
        return digest

    def unit(self, unit: str, videos: dict[str, list[EncodedClip]]) -> ShardEntry:
        """Finish and write a unit; a video without clips is a reject."""
        digests = [
            self.finish(unit, name, clips, None if clips else RejectReason.NO_FACE) for name, clips in videos.items()
        ]
        return write_unit(self.storage, unit, digests, self.scratch)

    def publish(self, *entries: ShardEntry) -> DatasetReader:
        """Publish the next version: what the newest has, and these."""
        parent = latest_version(self.storage)
        version = DatasetVersion(
            version=parent.version + 1 if parent else 1,
            parent=parent.version if parent else None,
            created="2026-01-01T00:00:00+00:00",
            recipe={"revision": 1, "faces": {"kind": "embedded"}},
            recipe_digest=RECIPE,
            faces="embedded",
            licences=(Licence(part="detector", licence="MIT", source="a package", sha256="0" * 64),),
            source_licences=("test",),
            units=(parent.units if parent else Units.of(())).extended(entries),
        )
        publish_version(self.storage, version)
        return DatasetReader(self.storage, version)


@pytest.fixture
def builder(tmp_path: Path) -> DatasetBuilder:
    return DatasetBuilder(tmp_path)


@pytest.fixture
def small(builder: DatasetBuilder) -> DatasetReader:
    """Version 1: two units, four videos (one a reject), five clips."""
    clips = builder.clip
    one = builder.unit("unit-one", {"a": [clips("a"), clips("a", start=64, frames=20)], "b": []})
    two = builder.unit("unit-two", {"c": [clips("c", track=1, split="val"), clips("c")], "d": [clips("d")]})
    return builder.publish(one, two)
