"""A memory of what lies where, so that known bytes are not read again: ``seen/*.parquet`` of the dataset.

A mere cache, only ever appended to: deleting it costs reading everything once more. It holds no places and no names:
a row is a hash of (place, fingerprint), and the digest and number of the bytes there; or a digest that stands in for
theirs and the number -1, where they could not be had for a reason that will not pass by itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import StorageError
from infra.storage import Storage
from pipeline.dataset.format import SCHEMA
from pipeline.rows import ListedVideo
from pipeline.sources.addresses import place_identity
from pipeline.tables import read_table, table_bytes

logger = logging.getLogger(__name__)

SEEN_PREFIX = "seen/"
PLACES_PREFIX = f"{SEEN_PREFIX}places-"
_MOST_FILES = 16
_NO_BYTES = -1
UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What reading a cache that is damaged raises."""
_COLUMNS = pa.schema(
    [pa.field("place", pa.binary(16)), pa.field("content", pa.string()), pa.field("bytes", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was found at a place: sha256 (hex) of the bytes there, and how many."""

    content: str
    bytes: int


class Seen:
    """The cache in memory. Reading it takes a few objects, however many nights have passed.

    What was found somewhere counts for more than that it could not be had, whichever came later.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._rows: dict[bytes, Sight] = {}
        self._new: dict[bytes, Sight] = {}
        self._files = list(storage.list(PLACES_PREFIX))
        for key in self._files:
            table = read_cached(storage, key, _COLUMNS)
            if table is not None:
                for key, sight in zip(table["place"].to_pylist(), map(Sight, *_columns(table)), strict=True):
                    self._keep(key, sight)

    def get(self, video: ListedVideo) -> Sight | None:
        """Return what lies there; None where it was never read, or changed since."""
        sight = self._sight(video)
        return sight if sight is not None and sight.bytes != _NO_BYTES else None

    def could_not_be_had(self, video: ListedVideo) -> bool:
        """Tell whether its bytes could not be had, and nothing changed since."""
        sight = self._sight(video)
        return sight is not None and sight.bytes == _NO_BYTES

    def add(self, video: ListedVideo, sight: Sight) -> None:
        """Remember what was found; a place without a fingerprint cannot be remembered."""
        key = _key(video)
        if key is not None and self._rows.get(key) != sight and self._keep(key, sight):
            self._new[key] = sight

    def add_failure(self, video: ListedVideo, standin: str) -> None:
        """Remember that its bytes could not be had; ``standin`` stands in for their digest."""
        self.add(video, Sight(standin, _NO_BYTES))

    def _sight(self, video: ListedVideo) -> Sight | None:
        key = _key(video)
        return None if key is None else self._rows.get(key)

    def _keep(self, key: bytes, sight: Sight) -> bool:
        if sight.bytes == _NO_BYTES and key in self._rows:
            return False
        self._rows[key] = sight
        return True

    def flush(self) -> None:
        """Append what is new to the store; many small files are merged into one first."""
        if not self._new:
            return
        merge = len(self._files) >= _MOST_FILES
        rows = self._rows if merge else self._new
        data = cached_bytes([(key, sight.content, sight.bytes) for key, sight in sorted(rows.items())], _COLUMNS)
        key = f"{PLACES_PREFIX}{hashlib.sha256(data).hexdigest()[:16]}.parquet"
        self._storage.write(key, data)
        if merge:
            for old in self._files:
                if old != key:
                    self._storage.delete(old)
            self._files = []
        self._files.append(key)
        self._new = {}


def forget(storage: Storage, digests: Collection[str]) -> None:
    """Take every row that holds one of the digests out of the caches under ``seen/``, for a takedown.

    A damaged cache, of which nobody can tell what it says, goes as a whole.
    """
    gone = pa.array(sorted(digests), pa.string())
    for key in storage.list(SEEN_PREFIX):
        try:
            table = read_table(storage.read(key))
        except UNREADABLE as error:
            logger.warning("%s/%s is deleted: it cannot be read (%s)", storage.uri, key, error)
            storage.delete(key)
            continue
        kept = table
        for field in table.schema:
            if pa.types.is_string(field.type):
                kept = kept.filter(pc.invert(pc.is_in(kept[field.name], gone)))
        if kept.num_rows < table.num_rows:
            storage.write(key, table_bytes(kept))


def cached_bytes(rows: list[tuple[Any, ...]], columns: pa.Schema, metadata: dict[str, str] | None = None) -> bytes:
    """Return rows (tuples in column order) as a cache file."""
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(column, field.type) for column, field in zip(cells, columns, strict=True)]
    schema = columns.with_metadata({"schema": str(SCHEMA), **(metadata or {})})
    return table_bytes(pa.Table.from_arrays(arrays, schema=schema))


def read_cached(storage: Storage, key: str, columns: pa.Schema) -> pa.Table | None:
    """Return a cache file's table; None, with a warning, when it is damaged or of another schema."""
    try:
        table = read_table(storage.read(key))
    except (StorageError, *UNREADABLE) as error:
        logger.warning("%s/%s is left out: it cannot be read (%s)", storage.uri, key, error)
        return None
    metadata = table.schema.metadata or {}
    if metadata.get(b"schema") != str(SCHEMA).encode() or table.schema.names != columns.names:
        logger.warning("%s/%s is left out: it is of another schema", storage.uri, key)
        return None
    return table


def _columns(table: pa.Table) -> tuple[list[Any], list[Any]]:
    return table["content"].to_pylist(), table["bytes"].to_pylist()


def _key(video: ListedVideo) -> bytes | None:
    if video.fingerprint is None:
        return None
    text = f"{place_identity(video.place)}\0{video.fingerprint}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
