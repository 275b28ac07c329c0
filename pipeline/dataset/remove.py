"""Takedown: a video leaves the dataset with all that was made of it, and never comes back.

``removed.json`` is written first and is the only memory of it. Everything after is "make it true for every digest that
is listed there", step by step, so that a takedown that died is finished by any later one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.errors import CorruptShardError, DatasetError
from infra.fetch import file_digest
from infra.storage import Storage
from pipeline.dataset.derived import purge_derived
from pipeline.dataset.format import PLAN_KEY, VIDEO_COLUMNS, done_key, videos_key
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.reader import DatasetReader, table_from_bytes
from pipeline.dataset.rewrite import is_left_out, rewrite_unit, rewritten_id
from pipeline.dataset.takedown import read_removed, write_removed
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.vacuum import GRACE_S, STAGED, sweep
from pipeline.dataset.versions import (
    DatasetVersion,
    VersionRecord,
    bury_version,
    list_versions,
    live_versions,
    load_version,
    newest_version,
    next_version,
    publish_version,
    require_dataset,
)
from pipeline.places import local_path, named_path
from pipeline.plan import Plan, Unit, read_plan, write_plan
from pipeline.rows import SourceVideo
from pipeline.sources.addresses import shown_place
from pipeline.sources.seen import forget

SHORTEST_PREFIX = 8
"""Hexadecimal digits that a video may be named by, at least."""
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")


@dataclass(frozen=True, slots=True)
class RemoveReport:
    """What a takedown did.

    ``version`` is the newest version now and ``new`` tells whether it was made by this takedown; ``names`` are the
    videos that were meant, ``clips`` is how many clips left the newest version, ``buried`` are the numbers of the
    versions that cannot be read any more, ``deleted`` are files of runs that were deleted. ``learnt`` are weights and
    checkpoints that saw a removed video: nothing can take it out of them, so they are only named. ``mentions`` are
    records of runs that still say a video's name.
    """

    version: int
    new: bool
    names: tuple[str, ...]
    clips: int
    buried: tuple[int, ...]
    deleted: tuple[str, ...]
    learnt: tuple[str, ...]
    mentions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """A video that some table or plan knows."""

    video: str
    content: str
    name: str
    place: str

    def is_called(self, text: str, path: str) -> bool:
        """Tell whether this is its name, or where it was taken from; ``path`` is ``text`` as a path.

        Stored places hold no user, password or query values. Where values are left out, two addresses look the same,
        so such a place is called by its stored form only.
        """
        if text in (self.name, self.place) or ("?" not in self.place and shown_place(text) == self.place):
            return True
        local = local_path(self.place.removeprefix("frames:"))
        return local == path or ("/../" in local and named_path(local) == path)  # as older versions spell places

    @property
    def file(self) -> str:
        """Digest of the file that it is, or is cut from."""
        return self.content or self.video


def remove_videos(
    storage: Storage, videos: Sequence[str], scratch: Path, *, runs: Iterable[str | Path] = ()
) -> RemoveReport:
    """Take videos out of a dataset for good.

    In this order: their digests are written down as removed; they leave the plan in progress and its work; a version
    without them is published; what runs made of them is deleted; every older version that held them becomes a
    tombstone that names the new one; and nothing that no version lists is left. All videos cut from the same file go
    together. Killed anywhere, the same call finishes it.

    Args:
        storage: the dataset.
        videos: for each video its name in the dataset, the path or address it was taken from, a local file with its
            bytes, or at least 8 digits of its digest.
        scratch: local folder with space for the largest shard.
        runs: folders below which runs, features and pictures lie; those made of this dataset are looked at.

    Raises:
        DatasetError: no version is there, another process writes the dataset, a video is not known, or a name fits
            several; nothing is changed then.
        ConfigError: a ``file:`` URI names another machine.
        CorruptShardError: a shard or table that must be rewritten is damaged; run again once it is restored.
        StorageError: the disk or the store refuses; run again to finish.
    """
    require_dataset(storage)
    with writer_lock(storage):
        latest = newest_version(storage)
        meant = _resolve(storage, videos)
        removed = read_removed(storage) | {digest for known in meant for digest in (known.video, known.file)}
        write_removed(storage, removed)
        holding = _units_holding(storage, removed)
        affected = holding.intersection(latest.units.column("unit"))
        forget(storage, removed)
        plan = _forget_plan(storage, removed, latest, due=latest.version + (2 if affected else 1))
        newest = _published_without(storage, latest, affected, removed, scratch) if affected else latest
        readable = live_versions(storage)
        buried = [
            version
            for version in readable
            if version.version != newest.version and not holding.isdisjoint(_listed(storage, version))
        ]
        live = [version for version in readable if version not in buried]
        derived = purge_derived(
            runs,
            storage.uri,
            set(list_versions(storage)) - {version.version for version in live},
            digests=removed,
            names={known.name for known in meant if known.name},
        )
        for version in buried:
            bury_version(storage, version.version, newest.version)
        # read anew: a bucket has no lock. Tables of units name nobody, and one may be another writer's newest
        sweep(storage, live_versions(storage), plan, grace_s=0.0, table_grace_s=GRACE_S)
    return RemoveReport(
        version=newest.version,
        new=newest.version > latest.version,
        names=tuple(sorted({known.name for known in meant})),
        clips=latest.counts.clips - newest.counts.clips,
        buried=tuple(version.version for version in buried),
        deleted=derived.deleted,
        learnt=derived.learnt,
        mentions=derived.mentions,
    )


def _resolve(storage: Storage, videos: Sequence[str]) -> list[_Known]:
    """Find every video that is meant; all cuts of one file count as one."""
    paths = {text: named_path(text) for text in videos}
    digests = {text: file_digest(Path(path)) for text, path in paths.items() if Path(path).is_file()}
    named: dict[str, set[_Known]] = {text: set() for text in videos}
    prefixed: dict[str, set[_Known]] = {text: set() for text in videos}
    for known in _known_videos(storage):
        for text in named:
            if known.is_called(text, paths[text]) or digests.get(text) in (known.video, known.file):
                named[text].add(known)
            elif _PREFIX.fullmatch(text) and (known.video.startswith(text) or known.file.startswith(text)):
                prefixed[text].add(known)
    removed = read_removed(storage)
    meant: list[_Known] = []
    for text in named:
        found = named[text] or prefixed[text]
        if not found and _PREFIX.fullmatch(text):
            found = {_Known(digest, "", "", "") for digest in removed if digest.startswith(text)}
        meant += _one_file(storage, text, found)
    return meant


def _one_file(storage: Storage, text: str, found: Collection[_Known]) -> list[_Known]:
    if not found:
        raise DatasetError(
            f"{storage.uri} holds no video {text!r}; give its name as the dataset has it, the path that it was taken "
            f"from, or at least {SHORTEST_PREFIX} digits of its digest"
        )
    files = {known.file: known for known in sorted(found, key=lambda known: known.video)}
    if len(files) > 1:
        fitting = ", ".join(f"{digest[:16]} ({known.name})" for digest, known in sorted(files.items())[:5])
        raise DatasetError(f"{text!r} fits {len(files)} videos: {fitting}; give the digest of the one that is meant")
    return list(found)


def _known_videos(storage: Storage) -> Iterator[_Known]:
    for unit in _stored_ledgers(storage):
        for row in _ledger(storage, unit):
            yield _Known(row["video"], row["content"], row["name"], row["place"])
    plan = read_plan(storage)
    for planned in plan.units if plan else ():
        for video in planned.videos:
            yield _Known(video.digest, video.content, video.name, video.place)


def _stored_ledgers(storage: Storage) -> list[str]:
    """Units that have a table of videos, listed or not: a name can be found until nothing has it any more."""
    keys = storage.list("videos/")
    return [key.removeprefix("videos/").removesuffix(".parquet") for key in keys if key.endswith(".parquet")]


def _ledger(storage: Storage, unit: str) -> list[dict[str, Any]]:
    key = videos_key(unit)
    table = table_from_bytes(storage.read(key), VIDEO_COLUMNS, f"{storage.uri}/{key}")
    return table.select(["video", "content", "name", "place"]).to_pylist()


def _units_holding(storage: Storage, removed: Collection[str]) -> set[str]:
    """Return the units with a video that is removed; every unit that some version lists is looked at."""
    stored = _stored_ledgers(storage)
    lost = {unit for version in live_versions(storage) for unit in _listed(storage, version)}.difference(stored)
    if lost:
        raise CorruptShardError(f"{storage.uri}/{videos_key(min(lost))} is absent; restore it from a copy first")
    return {unit for unit in stored if any(is_left_out(row, removed) for row in _ledger(storage, unit))}


def _listed(storage: Storage, version: VersionRecord) -> list[str]:
    return load_version(storage, version.version).units.column("unit")


def _forget_plan(storage: Storage, removed: Collection[str], latest: DatasetVersion, *, due: int) -> Plan | None:
    """Take the units with a removed video out of the plan in progress, and return what is left of it.

    Their other videos are planned again by the next ingest. ``due`` is the version that the plan is to become now.
    """
    plan = read_plan(storage)
    if plan is None:
        return None
    kept: list[Unit] = []
    if plan.version > latest.version:  # otherwise it was carried out, and only its sweep is missing
        for unit in plan.units:
            gone = [video for video in unit.videos if video.digest in removed or video.content in removed]
            if gone:
                _forget_unit(storage, unit, gone)
            else:
                kept.append(unit)
    if not kept:
        storage.delete(PLAN_KEY)
        return None
    left = plan.model_copy(update={"units": tuple(kept), "version": due})
    if left != plan:
        write_plan(storage, left)
    return left


def _forget_unit(storage: Storage, unit: Unit, gone: Sequence[SourceVideo]) -> None:
    """Delete what a planned unit has in progress, and the staged bytes of the removed videos.

    Its shard, if it has one already, and other staged bytes are swept with all that nothing lists and no plan needs.
    """
    for key in (done_key(unit.id), *storage.list(f"work/{unit.id}/")):
        storage.delete(key)
    for video in gone:
        if video.path.startswith(STAGED):
            storage.delete(video.path.removeprefix(STAGED))


def _published_without(
    storage: Storage, latest: DatasetVersion, affected: Collection[str], removed: Collection[str], scratch: Path
) -> DatasetVersion:
    """Rewrite the affected units and publish the version that lists them instead."""
    reader = DatasetReader(storage, latest)
    units: list[ShardEntry] = []
    for entry in latest.units:
        if entry.unit not in affected:
            units.append(entry)
            continue
        gone = sorted(row["video"] for row in _ledger(storage, entry.unit) if is_left_out(row, removed))
        rewritten = rewrite_unit(reader, [entry], rewritten_id([entry], f"without {gone}"), scratch, without=removed)
        if rewritten is not None:
            units.append(rewritten)
    made = next_version(latest, units, "remove")
    publish_version(storage, made)
    return made
