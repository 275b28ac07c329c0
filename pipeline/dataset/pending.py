"""The work that an ingest has planned and not finished, as the other writers of a dataset must treat it."""

from __future__ import annotations

from infra.errors import DatasetError
from infra.storage import Storage
from pipeline.dataset.versions import DatasetVersion
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


def sweep_finished(storage: Storage, version: DatasetVersion) -> None:
    """Delete the completion markers and single results of units that the version lists: they have served."""
    listed = set(version.units.column("unit"))
    for prefix in ("work/", "units/"):
        for key in storage.list(prefix):
            if key.removeprefix(prefix).partition("/")[0].removesuffix(".done") in listed:
                storage.delete(key)
