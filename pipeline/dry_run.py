"""What an ingest would do, without doing any of it: nothing is written, and nothing is read but lists."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from infra.storage import Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.lock import refuse_other_things
from pipeline.dataset.pending import refuse_half_removed
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.takedown import read_removed
from pipeline.dataset.versions import DatasetVersion, latest_version
from pipeline.ingest import check_recipe
from pipeline.known import read_known
from pipeline.plan import read_plan
from pipeline.recipe import recipe_digest
from pipeline.rows import RejectReason
from pipeline.sources.addresses import is_local
from pipeline.sources.emptied import check_emptied
from pipeline.sources.listing import list_sources
from pipeline.sources.seen import Seen
from pipeline.sources.triage import triage

_NEWEST_UNITS = 8


@dataclass(frozen=True, slots=True)
class DryRun:
    """What an ingest would do now.

    Of ``listed`` videos, ``known`` need no work, ``removed`` may not return, and ``videos`` would be read: copies
    of known ones among them turn out only then, so it is the most that can come. ``bytes`` is their size as far as the
    sources say; ``unsized`` of them have none. ``seconds`` is the work of one worker on those bytes at the rate of
    the newest units, None without such a rate; fetching is not part of it. ``pending`` videos of an unfinished plan
    would be treated first. ``retried`` of the ``videos`` were rejected before.
    """

    dataset: str
    version: int | None
    listed: int
    known: int
    removed: int
    videos: int
    bytes: int
    unsized: int
    retried: int
    pending: int
    seconds: float | None = None
    by_kind: dict[str, int] = field(default_factory=dict)
    """Of the ``videos``, how many lie where: ``local``, ``s3``, ``http``, ``https``, ``youtube``, ``unknown``."""

    def lines(self) -> list[str]:
        """Say it to a person."""
        where = ", ".join(f"{count} {kind}" for kind, count in self.by_kind.items())
        said = [
            f"{self.dataset}: " + (f"version {self.version}" if self.version else "no version yet"),
            f"{self.listed} videos listed: {self.known} known, {self.removed} taken down, {self.videos} to do"
            + (f" ({where})" if where else ""),
        ]
        if self.videos:
            size = f"{self.bytes / 1e6:.1f} MB" + (f", and {self.unsized} of unknown size" if self.unsized else "")
            rate = (
                "no rate is known yet" if self.seconds is None else f"about {self.seconds:.0f} s of one worker's time"
            )
            said.append(f"{size}; {rate}; byte-identical copies of known videos show when they are read")
        if self.retried:
            said.append(f"{self.retried} of them were rejected before")
        if self.pending:
            said.append(f"an unfinished plan of {self.pending} videos comes first")
        return said


def plan_ingest(cfg: IngestConfig, *, retry: Collection[RejectReason] = ()) -> DryRun:
    """Return what ``ingest`` would do with these settings; errors as there."""
    storage = open_storage(cfg.out)
    refuse_other_things(storage)
    latest = latest_version(storage)
    refuse_half_removed(storage, latest)
    check_recipe(latest, cfg, recipe_digest(cfg))
    seen, known = Seen(storage), read_known(storage, latest, refresh=False)
    counts: dict[str, int] = {}
    found = triage(list_sources(cfg, warn=True, counts=counts), seen, known, read_removed(storage), retry)
    check_emptied(storage, counts, allow=cfg.allow_empty_sources)
    plan = read_plan(storage)
    size = sum(video.bytes or 0 for video in found.due)
    unsized = sum(video.bytes is None for video in found.due)
    rate = _seconds_per_byte(storage, latest)
    by_kind: dict[str, int] = {}
    for video in found.due:
        scheme, colon, _ = video.place.partition(":")
        kind = scheme.lower() if colon and not is_local(video.place) else "local"
        by_kind[kind] = by_kind.get(kind, 0) + 1
    return DryRun(
        dataset=storage.uri,
        version=latest.version if latest else None,
        listed=found.listed,
        known=len(found.settled),
        removed=found.removed,
        videos=len(found.due),
        bytes=size,
        unsized=unsized,
        retried=found.again,
        pending=plan.videos if plan and plan.version > (latest.version if latest else 0) else 0,
        seconds=None if rate is None else round(size * rate, 1),
        by_kind=dict(sorted(by_kind.items())),
    )


def _seconds_per_byte(storage: Storage, latest: DatasetVersion | None) -> float | None:
    """Work of one worker for a byte of video, over the newest units; None where nothing was treated yet."""
    seconds, size = 0.0, 0
    if latest is not None:
        reader = DatasetReader(storage, latest)
        for entry in latest.units[-_NEWEST_UNITS:]:
            table = reader.videos(entry.unit).select(["bytes", "seconds"])
            for row in table.to_pylist():
                spent = sum(json.loads(row["seconds"]).values())
                if spent:
                    seconds, size = seconds + spent, size + row["bytes"]
    return seconds / size if size else None
