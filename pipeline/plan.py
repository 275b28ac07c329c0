"""Which videos make which shard: a pure function of what is listed, what is known, and the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import DatasetError
from infra.storage import Storage
from pipeline.dataset.format import PLAN_KEY, SCHEMA
from pipeline.known import Known
from pipeline.rows import RejectReason, SourceVideo

OUTPUT_SHARE = 0.5
"""Bytes that come out for a byte that goes in. Only an estimate: it decides how many videos share a shard."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Unit(_Frozen):
    """Videos planned together for one shard, sorted by digest. The id is a function of them and the recipe."""

    id: str
    videos: tuple[SourceVideo, ...]


class Plan(_Frozen):
    """``plan.json``: the work of one dataset version, written down before it begins."""

    schema_number: int = SCHEMA
    version: int
    """The version that this plan will become."""
    recipe_digest: str
    source_licence: str | None = None
    """Licence of its videos; None in a plan that was written before plans said it."""
    units: tuple[Unit, ...]

    @property
    def videos(self) -> int:
        """Number of videos in all units."""
        return sum(len(unit.videos) for unit in self.units)


def plan_units(
    videos: Iterable[SourceVideo],
    known: Known,
    recipe: str,
    shard_bytes: int,
    *,
    version: int,
    retry: Collection[RejectReason] = (),
) -> tuple[Unit, ...]:
    """Divide the videos that are not known into units of about ``shard_bytes`` of output.

    Twins (equal digests) are one video, under the name that sorts first. The result does not depend on the order
    of ``videos``. Units are runs of the videos sorted by digest, so each shard is a fair mix of the source, and keys
    sort through shards.

    Args:
        videos: what the sources list.
        known: what the newest version says of the videos it has; those that are settled need no work.
        recipe: recipe digest; part of every unit's id.
        shard_bytes: target size of a shard, bytes; a unit holds at least one video.
        version: the version that the plan will become. It is part of the id of a unit with a video that was treated
            before, so that no unit of an older version is overwritten.
        retry: reasons whose rejects are treated again.
    """
    distinct: dict[str, SourceVideo] = {}
    for video in videos:
        twin = distinct.get(video.digest)
        if not _is_settled(video, known, retry) and (twin is None or (video.name, video.path) < (twin.name, twin.path)):
            distinct[video.digest] = video

    def unit(batch: Sequence[SourceVideo]) -> Unit:
        again = [f"again in {version}"] if any(video.digest in known.rejects for video in batch) else []
        content = "\n".join([recipe, *(video.digest for video in batch), *again])
        return Unit(id=hashlib.sha256(content.encode()).hexdigest()[:16], videos=tuple(batch))

    units: list[Unit] = []
    batch: list[SourceVideo] = []
    size = 0.0
    for video in sorted(distinct.values(), key=lambda video: video.digest):
        expected = video.bytes * OUTPUT_SHARE
        if batch and size + expected > shard_bytes:
            units.append(unit(batch))
            batch, size = [], 0.0
        batch.append(video)
        size += expected
    return (*units, unit(batch)) if batch else tuple(units)


def read_plan(storage: Storage) -> Plan | None:
    """Return the plan in progress, None where there is none; DatasetError when it is damaged."""
    if not storage.exists(PLAN_KEY):
        return None
    try:
        plan = Plan.model_validate_json(storage.read(PLAN_KEY))
    except ValidationError as error:
        first = str(error).splitlines()[0]
        raise DatasetError(f"{storage.uri}/{PLAN_KEY} is damaged ({first}); delete it to plan again") from error
    if plan.schema_number != SCHEMA:
        raise DatasetError(f"{storage.uri}/{PLAN_KEY} has schema {plan.schema_number}, this code {SCHEMA}; delete it")
    return plan


def write_plan(storage: Storage, plan: Plan) -> None:
    """Write the plan down; from here on an interrupted ingest finishes exactly this."""
    storage.write(PLAN_KEY, plan.model_dump_json().encode())


def _is_settled(video: SourceVideo, known: Known, retry: Collection[RejectReason]) -> bool:
    """Tell whether the ledger has this already. A failure to get the bytes that is known stays what it is."""
    if video.reject is not None:
        return known.rejects.get(video.digest) == video.reject
    return known.is_settled(video.digest, retry)
