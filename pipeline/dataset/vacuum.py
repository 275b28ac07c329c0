"""Delete what no version lists: shards that were merged or rewritten, and leftovers of writers that died."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from infra.errors import ConfigError
from infra.storage import Storage
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.versions import VersionRecord, bury_version, live_versions, load_version, require_dataset
from pipeline.plan import Plan, read_plan
from pipeline.sources.local import STAGED

GRACE_S = 24 * 3600.0
"""Age below which nothing is deleted: another writer of a bucket may be about to list it."""
_ENDINGS: dict[str, str | tuple[str, ...]] = {
    "units/": ".done", "work/": (".clips.tar", ".regions.tar", ".outcome.json"), "staged/": "",
    "versions/": ".parquet", "shards/": ".tar", "manifests/": ".parquet", "videos/": ".parquet",
}  # fmt: skip
"""Where that lies which is swept, and how it ends, in this order; all else is not ours. A marker goes before what it
vouches for; tables of videos go last, since they alone tell which video is meant when a takedown is run again."""


@dataclass(frozen=True, slots=True)
class VacuumReport:
    """Version numbers that were dropped, keys that were deleted and their bytes (or would be, in a dry run)."""

    dropped: tuple[int, ...]
    keys: tuple[str, ...]
    bytes: int


def vacuum_dataset(
    storage: Storage, *, grace_s: float = GRACE_S, keep: int | None = None, dry_run: bool = False
) -> VacuumReport:
    """Delete objects that no version lists and that are older than ``grace_s``; nothing that a plan in progress needs.

    Killed anywhere, the next call finishes it.

    Args:
        storage: the dataset.
        grace_s: seconds since the youngest object of a unit was written.
        keep: number of newest versions that stay readable; older ones are replaced by a tombstone that names the
            oldest that stays, and what only they listed is deleted. A run that reads one of them will fail.
        dry_run: only tell; nothing is written.

    Raises:
        ConfigError: ``keep`` is below 1.
        DatasetError: no dataset is there, another process writes it, or a version is damaged.
        StorageError: the store refuses.
    """
    if keep is not None and keep < 1:
        raise ConfigError(f"keep={keep} would drop every version; keep at least 1")
    require_dataset(storage)
    with contextlib.nullcontext() if dry_run else writer_lock(storage):
        plan = read_plan(storage)  # before the versions: an ingest publishes first and drops its plan afterwards
        live = live_versions(storage)
        cut = max(0, len(live) - keep) if keep else 0
        dropped, kept = live[:cut], live[cut:]
        if not dry_run:
            for version in dropped:
                bury_version(storage, version.version, kept[0].version)
        keys, size = sweep(storage, kept, plan, grace_s=grace_s, dry_run=dry_run)
    return VacuumReport(tuple(version.version for version in dropped), tuple(keys), size)


def sweep(
    storage: Storage,
    live: Sequence[VersionRecord],
    plan: Plan | None,
    *,
    grace_s: float,
    table_grace_s: float | None = None,
    dry_run: bool = False,
) -> tuple[list[str], int]:
    """Delete what none of the versions lists and the plan does not need; return the keys and their bytes.

    The caller holds the writer's lock; otherwise as ``vacuum_dataset``. ``table_grace_s`` is that of versions' tables
    of units, None for the same: a version that is published into a bucket meanwhile is not among ``live``.
    """
    wanted = {str(version.units_sha256) for version in live}
    for version in live:  # one at a time: each may list a million
        wanted.update(load_version(storage, version.version).units.column("unit"))
    planned = {unit.id for unit in plan.units} if plan else set()
    staged = {video.path.removeprefix(STAGED) for unit in plan.units for video in unit.videos} if plan else set()
    table_grace_s = grace_s if table_grace_s is None else table_grace_s
    now = time.time()
    of_unit: dict[str, list[str]] = defaultdict(list)
    for prefix, ending in _ENDINGS.items():
        for key in storage.list(prefix):
            if not key.endswith(ending):
                continue
            unit = _unit_of(key)
            listed = unit in wanted and prefix not in ("units/", "work/")
            if not (listed or unit in planned or key in staged):
                of_unit[unit].append(key)

    def is_old(key: str) -> bool:
        return storage.modified(key) <= now - (table_grace_s if key.startswith("versions/") else grace_s)

    old = {key for keys in of_unit.values() if all(map(is_old, keys)) for key in keys}
    keys = [key for prefix in _ENDINGS for key in sorted(old) if key.startswith(prefix)]
    size = 0
    for key in keys:
        size += storage.size(key)
        if not dry_run:
            storage.delete(key)
    return keys, size


def _unit_of(key: str) -> str:
    """The unit that an object belongs to; a table of units stands for itself.

    All staged objects stand together: a staging may take days, and has no plan before its end that would need them.
    """
    path = PurePosixPath(key)
    if path.parts[0] == "work":
        return path.parts[1]
    return "staged/" if path.parts[0] == "staged" else path.name.partition(".")[0]
