"""Read a dataset from one of its versions: what the version does not list is never touched."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import CorruptShardError, DatasetError, StorageError
from infra.storage import Storage, open_storage
from pipeline.dataset.format import (
    AUDIO,
    MANIFEST_COLUMNS,
    MAPS,
    META,
    VIDEO,
    VIDEO_COLUMNS,
    manifest_key,
    members,
    shard_key,
    videos_key,
)
from pipeline.dataset.sample import meta_from_bytes, regions_from_bytes
from pipeline.dataset.tar import unpack
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.versions import DatasetVersion, latest_version, load_version
from pipeline.rows import ClipMeta
from pipeline.tables import read_table

logger = logging.getLogger(__name__)

CACHED_MANIFESTS = 256


@dataclass(frozen=True, slots=True)
class RawClip:
    """One sample as it is stored: H.264 bytes, region maps uint16 (ceil(F/4), 28, 28) of frames 0, 4, 8 …, metadata.

    ``audio`` is the clip's sound as FLAC (16 kHz, mono), None where there is none.
    """

    key: str
    mp4: bytes
    regions: np.ndarray
    meta: ClipMeta
    audio: bytes | None = None


def open_dataset(uri: str, version: int | None = None) -> DatasetReader:
    """Open a dataset at one version; None takes the newest.

    Raises:
        DatasetError: nothing there, no such version, a damaged one, or one of another schema.
    """
    storage = open_storage(str(uri))
    found = latest_version(storage) if version is None else load_version(storage, version)
    if found is None:
        raise DatasetError(f"{storage.uri} holds no dataset version; make one with `marlin ingest SOURCE --out {uri}`")
    return DatasetReader(storage, found)


def version_to_go_on_with(uri: str, begun: int | None) -> int:
    """Return the version that work began with, while it can be read, else the newest.

    Raises:
        DatasetError: there is none.
    """
    if begun is not None:
        try:
            return open_dataset(uri, begun).version.version
        except DatasetError as gone:
            logger.warning("%s; going on with the newest", gone)
    return open_dataset(uri).version.version


class DatasetReader:
    """A dataset at one version. Pickles small: caches stay behind."""

    def __init__(self, storage: Storage, version: DatasetVersion) -> None:
        self.storage, self.version = storage, version
        self._manifests: OrderedDict[str, tuple[pa.Table, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_manifests": OrderedDict()}

    @property
    def shards(self) -> tuple[ShardEntry, ...]:
        """The listed units that have clips."""
        return tuple(entry for entry in self.version.units if entry.clips)

    def manifest(self, unit: str) -> pa.Table:
        """Return a unit's clips, one row each in tar order, columns as in ``MANIFEST_COLUMNS``.

        Raises:
            DatasetError: the version does not list the unit.
            CorruptShardError: the manifest's bytes are not those that the version lists.
        """
        return self._manifest(unit)[0]

    def videos(self, unit: str) -> pa.Table:
        """Return what became of each video of a unit, columns as in ``VIDEO_COLUMNS``; errors as ``manifest``."""
        return self._table(videos_key(unit), self._entry(unit).videos_sha256, VIDEO_COLUMNS)

    def read_clip(self, unit: str, row: int) -> RawClip:
        """Return the clip in row ``row`` of a unit's manifest by one range read of its shard.

        Raises:
            CorruptShardError: the bytes there are not the sample that the manifest promises.
            StorageError, TransientError: the store cannot give them.
        """
        table, spans = self._manifest(unit)
        if not 0 <= row < table.num_rows:
            raise DatasetError(f"unit {unit} has {table.num_rows} clips, there is no row {row}")
        key, (offset, size) = table["key"][row].as_py(), spans[row].tolist()
        try:
            sample = unpack(self.storage.read_range(shard_key(unit), offset, size))
            if list(sample) != [key + ending for ending in members(table["audio"][row].as_py())]:
                raise CorruptShardError(f"the bytes there belong to {', '.join(sample) or 'nothing'}")
            meta = meta_from_bytes(sample[key + META])
            regions = regions_from_bytes(sample[key + MAPS], meta.frames)
        except (CorruptShardError, StorageError) as error:
            raise CorruptShardError(f"{self.storage.uri}/{shard_key(unit)}, clip {key}: {error}") from error
        return RawClip(key, sample[key + VIDEO], regions, meta, sample.get(key + AUDIO))

    def _entry(self, unit: str) -> ShardEntry:
        entry = self.version.units.find(unit)
        if entry is None:
            raise DatasetError(f"version {self.version.version} of {self.storage.uri} lists no unit {unit!r}")
        return entry

    def _manifest(self, unit: str) -> tuple[pa.Table, np.ndarray]:
        """The table and its byte ranges, int64 (rows, 2); the newest few are kept."""
        if unit not in self._manifests:
            table = self._table(manifest_key(unit), self._entry(unit).manifest_sha256, MANIFEST_COLUMNS)
            spans = np.stack([table["offset"].to_numpy(), table["size"].to_numpy()], axis=1)
            self._manifests[unit] = (table, spans)
            if len(self._manifests) > CACHED_MANIFESTS:
                self._manifests.popitem(last=False)
        return self._manifests[unit]

    def _table(self, key: str, sha256: str, columns: pa.Schema) -> pa.Table:
        """Read a table of which the version lists the digest."""
        data = self.storage.read(key)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptShardError(
                f"{self.storage.uri}/{key} has sha256 {found[:12]}…, and version {self.version.version} lists "
                f"{sha256[:12]}…; restore it from a copy or ingest again"
            )
        return table_from_bytes(data, columns, f"{self.storage.uri}/{key}")


def table_from_bytes(data: bytes, columns: pa.Schema, where: str) -> pa.Table:
    """Return a table of clips or of videos; CorruptShardError, which names ``where``, when it is none."""
    try:
        table = read_table(data)
    except (pa.ArrowException, OSError) as error:
        raise CorruptShardError(f"{where} is no parquet table: {error}") from error
    if table.schema.names != columns.names:
        raise CorruptShardError(f"{where} has columns {table.schema.names}")
    return table
