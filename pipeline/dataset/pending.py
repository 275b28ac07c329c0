"""Work on a dataset that is begun and not finished, as those who write it must treat it."""

from __future__ import annotations

from infra.errors import DatasetError
from infra.storage import Storage
from pipeline.dataset.takedown import read_removed
from pipeline.dataset.versions import DatasetVersion
from pipeline.known import read_known
from pipeline.plan import Plan, read_plan


def pending_plan(storage: Storage, latest: DatasetVersion | None) -> Plan | None:
    """Return the plan that the next ingest will carry on; None where there is none, or where its version exists."""
    plan = read_plan(storage)
    return plan if plan is not None and plan.version > (latest.version if latest else 0) else None


def refuse_while_planned(storage: Storage, latest: DatasetVersion, what: str) -> None:
    """Raise DatasetError while an ingest is unfinished: a new version would make its finished work worthless."""
    if pending_plan(storage, latest):
        raise DatasetError(
            f"an ingest into {storage.uri} is unfinished; run it again to its end, and {what} afterwards"
        )


def refuse_half_removed(storage: Storage, latest: DatasetVersion | None) -> None:
    """Raise DatasetError while a takedown is unfinished: a new version would hold the videos that it is to take out."""
    removed = read_removed(storage)
    if not removed:
        return
    held = removed.intersection(read_known(storage, latest, refresh=False).rejects)
    if plan := pending_plan(storage, latest):
        held |= removed.intersection(d for unit in plan.units for v in unit.videos for d in (v.digest, v.content))
    if held:
        raise DatasetError(f"{unfinished_takedown(storage, min(held))}, then this again")


def unfinished_takedown(storage: Storage, digest: str) -> str:
    """Say that a video must not be here, and the cure."""
    return (
        f"a takedown is unfinished: {storage.uri} still holds {digest[:16]}…; run "
        f"`marlin dataset remove {storage.uri} {digest[:16]}`"
    )


def sweep_finished(storage: Storage, version: DatasetVersion) -> None:
    """Delete the completion markers and single results of units that the version lists: they have served."""
    listed = set(version.units.column("unit"))
    for prefix in ("work/", "units/"):
        for key in storage.list(prefix):
            if key.removeprefix(prefix).partition("/")[0].removesuffix(".done") in listed:
                storage.delete(key)
