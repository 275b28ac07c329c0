"""From window references to pixels: reads clips of one dataset version and makes the samples of each window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from infra.errors import DatasetError
from infra.progress import Progress
from model.adapt.samples import ClipRow, Draw
from model.adapt.task import Target
from model.adapt.variants import Variants
from model.data.source import resize_frames
from pipeline.dataset.reader import DatasetReader, RawClip
from pipeline.media.decode import decode_clip


class Sample(NamedTuple):
    """One clip as a network sees it: frames uint8 (T, H, W, 3), and what is to be predicted."""

    frames_THWC: np.ndarray
    target: Target


@dataclass(frozen=True)
class ClipPixels:
    """Reads windows of a dataset version and gives the samples made of each; holds no open file.

    reader: the dataset. variants: what is made of a window. image_size: side of the frames given out, in pixels.
    seed: of what is made.
    """

    reader: DatasetReader
    variants: Variants
    image_size: int
    seed: int

    def samples(self, draw: Draw) -> list[Sample]:
        """Return the samples of one window, in the order of its variants."""
        window = draw.window
        raw = self._raw(window.clip)
        frames_THWC = decode_clip(raw.mp4, window.indices)
        made = self.variants.frames(frames_THWC, raw.regions, window, draw_seed(self.seed, draw))
        targets = self.variants.targets(window)
        return [Sample(resize_frames(f, self.image_size), target) for f, target in zip(made, targets, strict=True)]

    def iter_samples(self, draws: Iterable[Draw], *, ahead: int = 2) -> Iterator[list[Sample]]:
        """Yield the samples of each draw in order, with ``ahead`` of them decoded and made in threads."""
        pending = iter(draws)
        with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="clip-pixels") as pool:
            queue: list[Future[list[Sample]]] = [pool.submit(self.samples, draw) for draw in islice(pending, ahead)]
            while queue:
                samples = queue.pop(0).result()
                queue += [pool.submit(self.samples, draw) for draw in islice(pending, 1)]
                yield samples

    def usable(self, clips: Sequence[ClipRow], *, show: bool = True) -> list[ClipRow]:
        """Return the clips that samples can be made of; reads the region maps of all where that decides."""
        if self.variants.count == 1:
            return list(clips)
        kept = []
        with Progress("look for face regions", len(clips), unit="clip", enabled=show) as progress:
            for clip in clips:
                if self.variants.usable(self._raw(clip).regions):
                    kept.append(clip)
                progress.update()
        return kept

    def _raw(self, clip: ClipRow) -> RawClip:
        raw = self.reader.read_clip(clip.unit, clip.row)
        if raw.key != clip.key:
            raise DatasetError(f"unit {clip.unit} row {clip.row} holds clip {raw.key}, not {clip.key}")
        return raw


def draw_seed(seed: int, draw: Draw) -> int:
    """Return the seed of what is made: a function of the run's seed, the window's name and the draw's number alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{draw.window.id}/{draw.number}".encode()).digest()[:8])
