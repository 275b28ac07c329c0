"""From window references to pixels: reads clips of one dataset version and makes real and fake samples of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import cv2
import numpy as np

from infra.errors import ConfigError, DatasetError
from infra.progress import Progress
from model.adapt.samples import FAKE, REAL, ClipRow, Draw, Label
from model.adapt.self_blend import has_face, self_blend
from pipeline.dataset.reader import DatasetReader, RawClip
from pipeline.media.decode import decode_clip

FakeKind = Literal["self_blend", "labels"]
_LABELS: dict[str, Label] = {"real": REAL, "fake": FAKE}


class Sample(NamedTuple):
    """One clip as a detector sees it: frames uint8 (T, H, W, 3), label 0 real or 1 fake."""

    frames_THWC: np.ndarray
    label: Label


def list_clips(reader: DatasetReader) -> list[ClipRow]:
    """Return all clips that the version lists, in its order."""
    clips: list[ClipRow] = []
    for shard in reader.shards:
        for row, entry in enumerate(reader.manifest(shard.unit).to_pylist()):
            label = json.loads(entry["labels"]).get("label")
            clips.append(
                ClipRow(
                    unit=shard.unit,
                    row=row,
                    label=label if label in _LABELS else None,
                    **{name: entry[name] for name in _MANIFEST_FIELDS},
                )
            )
    return clips


_MANIFEST_FIELDS = ("key", "video", "name", "track", "start_frame", "frames", "split", "identity")


def choose_fakes(clips: Sequence[ClipRow], wanted: Literal["auto", "self_blend", "labels"]) -> FakeKind:
    """Decide where the fakes come from; ``auto`` takes labels where both kinds are present.

    Raises:
        ConfigError: labels are asked for and one kind is missing.
    """
    found = {clip.label for clip in clips} - {None}
    if wanted == "labels" and found != {"real", "fake"}:
        raise ConfigError(
            f"data.fakes=labels needs clips labelled real and clips labelled fake; found "
            f"{sorted(map(str, found)) or 'none'}; use data.fakes=self_blend"
        )
    if wanted == "auto":
        return "labels" if found == {"real", "fake"} else "self_blend"
    return wanted


def usable_clips(clips: Sequence[ClipRow], fakes: FakeKind) -> list[ClipRow]:
    """Return the clips that this kind of fakes can use: labelled ones, or all that are not known to be fake."""
    if fakes == "labels":
        return [clip for clip in clips if clip.label is not None]
    return [clip for clip in clips if clip.label != "fake"]


@dataclass(frozen=True)
class ClipPixels:
    """Reads windows of a dataset version and gives the samples made of each; holds no open file.

    reader: the dataset. fakes: where fakes come from. image_size: side of the frames given out, in pixels.
    seed: of the blends.
    """

    reader: DatasetReader
    fakes: FakeKind
    image_size: int
    seed: int

    @property
    def samples_per_draw(self) -> int:
        """2 where a fake is made of every window (real first), else 1."""
        return 2 if self.fakes == "self_blend" else 1

    def samples(self, draw: Draw) -> list[Sample]:
        """Return the samples of one window; for self-blends the real and the fake of this draw, in this order."""
        window = draw.window
        raw = self._raw(window.clip)
        frames_THWC = decode_clip(raw.mp4, window.indices)
        if self.fakes == "labels":
            return [Sample(self._sized(frames_THWC), _LABELS[str(window.clip.label)])]
        pair = self_blend(frames_THWC, raw.regions, blend_seed(self.seed, draw), window.indices)
        return [Sample(self._sized(pair.real_THWC), REAL), Sample(self._sized(pair.fake_THWC), FAKE)]

    def iter_samples(self, draws: Iterable[Draw], *, ahead: int = 2) -> Iterator[list[Sample]]:
        """Yield the samples of each draw in order, with ``ahead`` of them decoded and blended in threads."""
        pending = iter(draws)
        with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="clip-pixels") as pool:
            queue: list[Future[list[Sample]]] = [pool.submit(self.samples, draw) for draw in islice(pending, ahead)]
            while queue:
                samples = queue.pop(0).result()
                queue += [pool.submit(self.samples, draw) for draw in islice(pending, 1)]
                yield samples

    def with_face(self, clips: Sequence[ClipRow], *, show: bool = True) -> list[ClipRow]:
        """Return the clips that can be blended with themselves; with labels all of them."""
        if self.fakes == "labels":
            return list(clips)
        kept = []
        with Progress("look for face regions", len(clips), unit="clip", enabled=show) as progress:
            for clip in clips:
                if has_face(self._raw(clip).regions):
                    kept.append(clip)
                progress.update()
        return kept

    def _raw(self, clip: ClipRow) -> RawClip:
        raw = self.reader.read_clip(clip.unit, clip.row)
        if raw.key != clip.key:
            raise DatasetError(f"unit {clip.unit} row {clip.row} holds clip {raw.key}, not {clip.key}")
        return raw

    def _sized(self, frames_THWC: np.ndarray) -> np.ndarray:
        if frames_THWC.shape[1:3] == (self.image_size, self.image_size):
            return frames_THWC
        size = (self.image_size, self.image_size)
        return np.stack([cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA) for frame_HWC in frames_THWC])


def blend_seed(seed: int, draw: Draw) -> int:
    """Return the seed of one blend: a function of the run's seed, the window's name and the draw's number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw.window.id}/{draw.number}".encode()).digest()[:8])
