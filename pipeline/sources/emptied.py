"""Which sources ever listed a video: one that lists none all of a sudden is more likely not mounted than empty."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

import pyarrow as pa

from infra.errors import ConfigError
from infra.storage import Storage
from pipeline.places import named_path
from pipeline.sources.addresses import place_identity, shown_place
from pipeline.sources.seen import SEEN_PREFIX, cached_bytes, read_cached

logger = logging.getLogger(__name__)

SOURCES_KEY = f"{SEEN_PREFIX}sources.parquet"
_COLUMNS = pa.schema([pa.field("source", pa.binary(16))])


def check_emptied(storage: Storage, counts: Mapping[str, int], *, allow: bool) -> None:
    """Warn of sources that list nothing; refuse one that once listed a video, unless they are allowed to be empty.

    Args:
        storage: the dataset, whose ``seen/`` remembers.
        counts: source, as a person named it → videos that it lists.
        allow: whether every source may be empty.

    Raises:
        ConfigError: a source was emptied, or what it lies on is not mounted.
    """
    remembered, is_all = _remembered(storage), not any(counts.values())
    for source in (source for source, videos in counts.items() if not videos):
        if _key(source) in remembered and not allow:
            raise ConfigError(
                f"source {shown_place(source)} lists no video any more; see whether it is mounted and whole, or set "
                "allow_empty_sources=true if it may be empty"
            )
        if not is_all:  # else that is the whole answer, and an ingest says it itself
            logger.warning("source %s lists no video", shown_place(source))


def remember_sources(storage: Storage, counts: Mapping[str, int]) -> None:
    """Write down which sources list videos now; nothing is written when all of that is known."""
    remembered = _remembered(storage)
    every = remembered.union(_key(source) for source, videos in counts.items() if videos)
    if every != remembered:
        storage.write(SOURCES_KEY, cached_bytes([(key,) for key in sorted(every)], _COLUMNS))


def _remembered(storage: Storage) -> frozenset[bytes]:
    table = read_cached(storage, SOURCES_KEY, _COLUMNS) if storage.exists(SOURCES_KEY) else None
    return frozenset(table["source"].to_pylist() if table is not None else ())


def _key(source: str) -> bytes:
    text = place_identity(source) if "://" in source else named_path(source)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
