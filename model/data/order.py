"""The order in which clips are read: a pure function of (clips per shard, seed), for any number of ranks and workers.

The clips of a run form one endless stream of positions 0, 1, 2, … . With N clips in the dataset, position p belongs
to epoch p // N. Within an epoch the shards are shuffled, and the clips are shuffled within *shuffle groups* of W
shards, so that a reader has at most about W shards open while neighbours in a batch come from different videos.

Global batch t is positions tB … (t+1)B − 1. The tail of an epoch that does not fill a batch is *carried*: the batch
is completed from the next epoch. So no clip is lost, none is read twice in an epoch, an epoch may be smaller than a
batch, and the state of a run is one integer, the number of clips seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from enum import IntEnum
from threading import Lock
from typing import NamedTuple

import numpy as np

from infra.errors import ConfigError, DatasetError

CACHED_GROUPS = 4
"""Permutations of shuffle groups kept: the current one and its neighbours, also across an epoch boundary."""


class Draw(IntEnum):
    """What a random number is for; each purpose has its own stream."""

    SHARDS = 0
    CLIPS = 1
    CLIP_CONTENT = 2


class ClipAddress(NamedTuple):
    """One clip to read: its epoch, its shard (index into ``counts``) and its index among that shard's clips."""

    epoch: int
    shard: int
    clip: int


class _Epoch(NamedTuple):
    """shards_S: shards in reading order; starts_G: first position of each shuffle group, and the end (int64)."""

    shards_S: np.ndarray
    starts_G: np.ndarray


class ClipOrder:
    """Maps a position in the endless stream to a clip.

    Memory is about 24 bytes a shard for each of two epochs and 8 bytes for each clip of a group, whatever the number
    of clips: 10^6 shards with 10^9 clips take well under 1 GB. Threads may share one object.

    Args:
        counts: clips in each shard, in the version's order; zeros are allowed.
        seed: of the run.
        group_shards: shards of a shuffle group (W ≥ 1), whose clips are mixed.

    Raises:
        DatasetError: no clip at all.
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int, group_shards: int = 16) -> None:
        self._counts_S = np.asarray(counts, dtype=np.int64)
        if self._counts_S.ndim != 1 or (self._counts_S < 0).any() or group_shards < 1:
            raise ValueError("counts must be one list of numbers >= 0, and group_shards at least 1")
        self.clips = int(self._counts_S.sum())
        if self.clips == 0:
            raise DatasetError("the dataset has no clip to read; look at `marlin dataset show` for what was rejected")
        self.seed, self.group_shards = seed, group_shards
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, position: int) -> ClipAddress:
        """Return the clip at ``position`` >= 0 of the stream."""
        if position < 0:
            raise IndexError(position)
        epoch, place = divmod(position, self.clips)
        with self._lock:
            plan = self._epoch(epoch)
            group = int(np.searchsorted(plan.starts_G, place, side="right")) - 1
            firsts_S, clips_N = self._group(epoch, group, plan)
        # clips_N: (n,) a permutation of the group's n clips laid end to end; firsts_S: (W + 1,) its shards' edges
        clip = int(clips_N[place - int(plan.starts_G[group])])
        local = int(np.searchsorted(firsts_S, clip, side="right")) - 1
        return ClipAddress(epoch, int(plan.shards_S[group * self.group_shards + local]), clip - int(firsts_S[local]))

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            shards_S = permutation(len(self._counts_S), self.seed, Draw.SHARDS, epoch)
            # (ceil(S / W),) clips of each group, then the running sum from 0
            sizes_G = np.add.reduceat(self._counts_S[shards_S], np.arange(0, len(shards_S), self.group_shards))
            self._epochs[epoch] = _Epoch(shards_S, np.concatenate(([0], np.cumsum(sizes_G))))
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _group(self, epoch: int, group: int, plan: _Epoch) -> tuple[np.ndarray, np.ndarray]:
        key = (epoch, group)
        if key not in self._groups:
            shards = plan.shards_S[group * self.group_shards : (group + 1) * self.group_shards]
            firsts_S = np.concatenate(([0], np.cumsum(self._counts_S[shards])))
            self._groups[key] = firsts_S, permutation(int(firsts_S[-1]), self.seed, Draw.CLIPS, epoch, group)
            while len(self._groups) > CACHED_GROUPS:
                self._groups.popitem(last=False)
        return self._groups[key]


def assign(step: int, rank: int, world: int, batch: int) -> range:
    """Return the positions of global batch ``step`` that ``rank`` of ``world`` reads: one contiguous slice.

    The slices of all ranks, in rank order, are the global batch, so what a step sees does not depend on ``world``.

    Raises:
        ConfigError: ``world`` does not divide ``batch``.
    """
    if batch % world:
        raise ConfigError(
            f"a global batch of {batch} clips cannot be shared by {world} ranks; take a multiple of {world}"
        )
    share = batch // world
    first = step * batch + rank * share
    return range(first, first + share)


def permutation(n: int, seed: int, *purpose: int) -> np.ndarray:
    """Return a random permutation of 0 … n−1 (int64), a pure function of its arguments.

    Sorts a bit generator's raw stream, which NumPy promises never to change; ``Generator.permutation`` has no such
    promise.
    """
    return np.argsort(_stream(seed, *purpose).random_raw(n), kind="stable")


def clip_seed(seed: int, position: int) -> int:
    """Return the seed, in [0, 2^63), of everything random about the clip at ``position`` (window, mask)."""
    return int(_stream(seed, Draw.CLIP_CONTENT, position).random_raw()) >> 1


def _stream(seed: int, *purpose: int) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence(entropy=seed, spawn_key=purpose))
