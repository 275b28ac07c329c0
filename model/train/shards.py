"""A look at the shards before ranks start, so that a damaged dataset is one sentence and not a dead run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from infra.errors import CorruptShardError
from pipeline.dataset.format import shard_key
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.tar import StoredTar
from pipeline.dataset.units import ShardEntry

SIZED_SHARDS = 1000
"""Shards whose size is asked for, at most: a store answers a few hundred a second."""
THREADS = 16


def check_shards(reader: DatasetReader, digest_bytes: int) -> None:
    """Refuse a dataset that has lost shards, or holds others than its version lists.

    A sample is taken, the same each time: sizes of up to ``SIZED_SHARDS`` shards, and the sha256 of as many of these as
    have ``digest_bytes`` together.

    Raises:
        CorruptShardError: a shard is not the listed one; the sentence names it and the cure.
        StorageError: a shard is not there.
    """
    units = reader.version.units
    shards_S = np.flatnonzero(units.numbers("clips"))
    chosen = random.Random(reader.version.version).sample(range(len(shards_S)), min(len(shards_S), SIZED_SHARDS))
    sample = [units[int(shards_S[i])] for i in chosen]
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(lambda entry: reader.storage.size(shard_key(entry.unit)), sample))
    for entry, size in zip(sample, sizes, strict=True):
        if size != entry.tar_bytes:
            raise _other(reader, entry, f"{size} bytes", f"{entry.tar_bytes}")
    for entry in sample:
        digest_bytes -= entry.tar_bytes
        if digest_bytes < 0:
            return
        found = StoredTar(reader.storage, shard_key(entry.unit)).digest()
        if found != entry.tar_sha256:
            raise _other(reader, entry, f"sha256 {found[:12]}…", f"{str(entry.tar_sha256)[:12]}…")


def _other(reader: DatasetReader, entry: ShardEntry, found: str, listed: str) -> CorruptShardError:
    return CorruptShardError(
        f"{reader.storage.uri}/{shard_key(entry.unit)} has {found} and version {reader.version.version} lists "
        f"{listed}; restore it from a copy, or ingest again (`marlin dataset verify` names all that is damaged)"
    )
