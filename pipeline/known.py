"""What the newest version says of each video it knows: did clips come out of it, or why not.

The ledgers of the units (``videos/<unit>.parquet``) are the truth. ``seen/ledger.parquet`` repeats what planning needs
of them in one object, so that a night does not read one object for every night before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from infra.storage import Storage
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.versions import DatasetVersion
from pipeline.rows import RejectReason
from pipeline.sources.seen import SEEN_PREFIX, cached_bytes, read_cached
from pipeline.sources.standin import standin_digest

LEDGER_KEY = f"{SEEN_PREFIX}ledger.parquet"
_MOST_UNCACHED = 16
COLUMNS = pa.schema([pa.field("ledger", pa.string()), pa.field("video", pa.string()), pa.field("reject", pa.string())])
PASSING = frozenset({RejectReason.UNREADABLE, RejectReason.UNREACHABLE})
"""Reasons that are the night's and not the video's."""
_HEALED = ""
"""Stands in place of a reject where a digest that stood in for bytes is superseded: they were had in the end."""


@dataclass(frozen=True, slots=True)
class Known:
    """The latest outcome of each video, by its digest; None: clips came out.

    ``healed`` are digests that stood in for bytes which were had later: known, and never settled, since other bytes may
    fail at the same place.
    """

    rejects: Mapping[str, RejectReason | None] = field(default_factory=dict)
    healed: Collection[str] = frozenset()

    def is_settled(self, digest: str, retry: Collection[RejectReason] = ()) -> bool:
        """Tell whether a video needs no work: it is known, and its reject is neither passing nor to be retried."""
        if digest not in self.rejects or digest in self.healed:
            return False
        reason = self.rejects[digest]
        return reason is None or not (reason in PASSING or reason in retry)


def read_known(storage: Storage, version: DatasetVersion | None, *, refresh: bool) -> Known:
    """Read what a version knows; None knows nothing.

    Args:
        storage: the dataset.
        version: the version.
        refresh: whether the cache may be rewritten (once for every few units that it lacks).

    Raises:
        CorruptShardError: a ledger is not the one that the version lists.
    """
    if version is None:
        return Known()
    cached = _read_cache(storage)
    ledgers = version.units.column("videos_sha256")
    unit_of = dict(zip(ledgers, version.units.column("unit"), strict=True))
    missing = [ledger for ledger in unit_of if ledger not in cached]
    reader = DatasetReader(storage, version)

    def read(unit: str) -> list[tuple[str, str | None]]:
        table = reader.videos(unit)
        videos, rejects = table["video"].to_pylist(), table["reject"].to_pylist()
        had = map(standin_digest, table["place"].to_pylist())
        healed = {standin for video, standin in zip(videos, had, strict=True) if video != standin}
        return [*zip(videos, rejects, strict=True), *((standin, _HEALED) for standin in sorted(healed))]

    with ThreadPoolExecutor(8) as pool:
        cached |= zip(missing, pool.map(read, (unit_of[ledger] for ledger in missing)), strict=True)
    rejected = {video for ledger in ledgers for video, reject in cached[ledger] if reject}
    for ledger in missing:
        cached[ledger] = [row for row in cached[ledger] if row[1] != _HEALED or row[0] in rejected]
    if refresh and len(missing) > _MOST_UNCACHED:
        rows = [(ledger, video, reject) for ledger in unit_of for video, reject in cached[ledger]]
        storage.write(LEDGER_KEY, cached_bytes(rows, COLUMNS))
    latest = {video: reject for ledger in ledgers for video, reject in cached[ledger]}
    return Known(
        {video: RejectReason(reject) if reject else None for video, reject in latest.items()},
        frozenset(video for video, reject in latest.items() if reject == _HEALED),
    )


def _read_cache(storage: Storage) -> dict[str, list[tuple[str, str | None]]]:
    table = read_cached(storage, LEDGER_KEY, COLUMNS) if storage.exists(LEDGER_KEY) else None
    cached: dict[str, list[tuple[str, str | None]]] = {}
    if table is not None:
        columns = (table[name].to_pylist() for name in ("ledger", "video", "reject"))
        for ledger, video, reject in zip(*columns, strict=True):
            cached.setdefault(ledger, []).append((video, reject))
    return cached
