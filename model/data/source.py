"""Position in, sample out: reads, decodes and masks a clip. A pure function of (version, settings, seed, position)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2
import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from infra.errors import ConfigError, CorruptShardError, DatasetError, MediaError, StorageError, TransientError
from model.data.batch import ClipSample
from model.data.clip_cache import ClipCache, DecodedClip
from model.data.order import ClipOrder, clip_seed
from model.data.window import WindowPlan, mirror_frames, mirror_regions
from model.masking import check_mask, decoder_targets, make_mask
from model.nets.config import ModelConfig
from model.train_config import MaskConfig
from pipeline.dataset.format import PRETRAIN_FRAMES
from pipeline.dataset.reader import DatasetReader, RawClip
from pipeline.media.decode import decode_clip

ReadT = TypeVar("ReadT")

logger = logging.getLogger(__name__)

STRIDE = 2
"""Frames between the frames of a window, as in the released code."""
BACKOFF_S = 0.2
"""First pause before something is read again; it doubles."""


class ClipSource:
    """The clips of one split of one dataset version, addressed by position in the endless stream.

    Threads may share one source.

    Args:
        reader: an opened dataset version.
        split: which clips are read; only those fit for pretraining.
        model: gives frames, tubelet, image and patch size.
        mask: strategy and ratio.
        seed: of the run; order, windows and masks follow from it.
        shuffle_shards: shards mixed with each other.
        flip: mirror half of the clips.
        read_attempts: times a clip or a manifest is read whose bytes are not what its version lists.
        cache_bytes: decoded clips held in memory; nothing that is read depends on it.

    Raises:
        ConfigError: the network's shape does not fit stored crops, or reaches over more frames than every clip has.
        DatasetError: the split holds no clip fit for pretraining.
    """

    def __init__(
        self,
        reader: DatasetReader,
        split: str,
        model: ModelConfig,
        mask: MaskConfig,
        *,
        seed: int,
        shuffle_shards: int = 16,
        flip: bool = False,
        read_attempts: int = 4,
        cache_bytes: int = 0,
    ) -> None:
        self.reader, self.split, self.seed = reader, split, seed
        self._mask, self._flip, self._attempts = mask, flip, read_attempts
        self._cache = ClipCache(cache_bytes)
        self._grid = model.grid
        if self._grid.h != self._grid.w:
            raise ConfigError(f"token grid {self._grid} is not square; stored crops are")
        self.plan = WindowPlan(model.frames, STRIDE, model.tubelet, model.image_size, self._grid.h)
        self.plan.check()
        self.plan.check_clips(PRETRAIN_FRAMES)
        check_mask(self._grid, mask)
        self._units = reader.version.units
        counts_S = self._units.pretrain(split)
        if not counts_S.any():
            raise DatasetError(
                f"version {reader.version.version} has no '{split}' clip fit for pretraining (32 frames at least); "
                "ingest longer videos, or change the split"
            )
        self._counts_S = counts_S
        self.order = ClipOrder(counts_S, seed, shuffle_shards)

    @property
    def clips(self) -> int:
        """Clips of one epoch."""
        return self.order.clips

    def load(self, position: int) -> ClipSample:
        """Return the sample at ``position``.

        Raises:
            ProjectError: the clip cannot be read or decoded; the sentence names unit and key. It is never skipped.
        """
        address = self.order[position]
        unit = self._units.name(address.shard)
        row = int(self._fit_rows(address.shard)[address.clip])
        # one stream per clip, so that nothing depends on which rank or thread loads it
        seed = clip_seed(self.seed, position)
        draw = np.random.Philox(key=seed)
        frames_THWC, bits_Thw, key, first = self._window(unit, row, int(draw.random_raw()))
        if self._flip and draw.random_raw() & 1:
            frames_THWC, bits_Thw = mirror_frames(frames_THWC), mirror_regions(bits_Thw)
        mask, seeds_B = self._mask, torch.tensor([seed])
        is_masked_BL = make_mask(mask.strategy, _as_tensor(bits_Thw)[None], self._grid, mask.ratio, seeds_B)
        is_target_L = None
        if mask.decoder_ratio:
            is_target_L = decoder_targets(is_masked_BL, self._grid, mask.decoder_ratio, seeds_B)[0]
        clip_THWC = torch.from_numpy(np.ascontiguousarray(frames_THWC))
        return ClipSample(clip_THWC, is_masked_BL[0], bits_Thw, key, first, is_target_L)

    def _window(self, unit: str, row: int, draw: int) -> tuple[np.ndarray, np.ndarray, str, int]:
        """Frames and region sets of the window that ``draw`` picks, the clip's key, and the window's first frame."""
        clip = self._cache.get(unit, row)
        if clip is None and self._cache.capacity_bytes:
            raw = self._read(unit, row)
            clip = DecodedClip(self._decoded(unit, raw, range(raw.meta.frames)), raw.regions, raw.key)
            self._cache.put(unit, row, clip)
        if clip is not None:
            window = draw % self.plan.starts(len(clip.frames_FHWC))
            indices = self.plan.frame_indices(window)
            return clip.frames_FHWC[indices], self.plan.region_bits(clip.regions_RHW, window), clip.key, indices[0]
        raw = self._read(unit, row)
        window = draw % self.plan.starts(raw.meta.frames)
        indices = self.plan.frame_indices(window)
        return self._decoded(unit, raw, indices), self.plan.region_bits(raw.regions, window), raw.key, indices[0]

    def _decoded(self, unit: str, raw: RawClip, indices: Sequence[int]) -> np.ndarray:
        try:
            return resize_frames(decode_clip(raw.mp4, indices), self.plan.image_size)
        except MediaError as error:
            raise MediaError(f"unit {unit}, clip {raw.key}: {error}") from error

    def _fit_rows(self, shard: int) -> np.ndarray:
        """Rows of the shard's manifest that are of the split and fit; recomputed, since that takes microseconds."""
        unit = self._units.name(shard)
        table = self._again(lambda: self.reader.manifest(unit), f"manifest of unit {unit}")
        fit = pc.and_(table["pretrain"], pc.equal(table["split"], self.split))
        rows = np.flatnonzero(fit.to_numpy())
        if len(rows) != self._counts_S[shard]:
            raise DatasetError(
                f"manifest of unit {unit} holds {len(rows)} clips for '{self.split}', its version lists "
                f"{self._counts_S[shard]}; run `marlin dataset verify`"
            )
        return rows

    def _read(self, unit: str, row: int) -> RawClip:
        return self._again(lambda: self.reader.read_clip(unit, row), f"unit {unit}, row {row}")

    def _again(self, read: Callable[[], ReadT], what: str) -> ReadT:
        """Read, and again where what came is wrong.

        A bucket repeats its requests itself, so its TransientError ends this at once. What is left to repeat: bytes
        that are not those that the version lists (damaged on their way or in a cache), and errors of a network disk.
        """
        pause = BACKOFF_S
        for attempt in range(1, self._attempts + 1):
            try:
                return read()
            except TransientError as error:
                raise TransientError(f"{what}: {error}") from error
            except (StorageError, CorruptShardError) as error:
                if attempt == self._attempts:
                    raise type(error)(f"{what}, after {attempt} attempts: {error}") from error
                logger.warning("%s: read failed (%s); trying again", what, error)
                time.sleep(pause)
                pause *= 2
        raise AssertionError("unreachable: at least one attempt returns or raises")


def resize_frames(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """Return frames of ``size`` pixels, averaged over pixel areas; contiguous."""
    if frames_THWC.shape[1] == size:
        return np.ascontiguousarray(frames_THWC)
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in frames_THWC])


def _as_tensor(bits_Thw: np.ndarray) -> Tensor:
    return torch.from_numpy(bits_Thw.astype(np.int32))
