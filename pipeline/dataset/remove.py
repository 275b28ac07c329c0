"""Takedown: a video leaves the dataset with all that was made of it, and never comes back.

What is written down below ``removed/`` comes first and is the only memory of it. Everything after is "make it true for
every digest that is there", step by step, so that a takedown that died is finished by any later one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.errors import CorruptShardError, DatasetError
from infra.fetch import file_digest
from infra.storage import Storage
from pipeline.dataset.derived import purge_derived
from pipeline.dataset.format import PLAN_KEY, VIDEO_COLUMNS, done_key, videos_key
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.reader import DatasetReader, table_from_bytes
from pipeline.dataset.rewrite import rewrite_unit, rewritten_id
from pipeline.dataset.takedown import read_removed, write_removed
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.vacuum import GRACE_S, sweep
from pipeline.dataset.versions import (
    DatasetVersion,
    bury_version,
    list_versions,
    live_versions,
    load_version,
    newest_version,
    next_version,
    publish_version,
    require_dataset,
)
from pipeline.places import FRAMES, local_path, named_path
from pipeline.plan import Plan, Unit, read_plan, write_plan
from pipeline.rows import RejectReason, SourceVideo
from pipeline.sources.addresses import is_web, is_whole, place_identity
from pipeline.sources.local import STAGED
from pipeline.sources.seen import forget
from pipeline.sources.standin import origin_digest, standin_digest

SHORTEST_PREFIX = 8
"""Hexadecimal digits that a video may be named by, at least."""
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")
_READERS, _READ_AHEAD = 32, 512


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
    """A video that some table or plan knows; ``bytes`` is 0 where they could not be had, and its digest stands in."""

    video: str
    content: str
    name: str
    place: str
    bytes: int
    reject: str | None

    @classmethod
    def planned(cls, video: SourceVideo) -> _Known:
        """Return a video of a plan."""
        return cls(video.digest, video.content, video.name, video.place, video.bytes, video.reject)

    def is_called(self, text: str, path: str) -> bool:
        """Tell whether this is its name, or where it was taken from; ``path`` is ``text`` as a path.

        Stored places hold no user, password or query values. Where values are left out, two addresses look the same,
        so such a place is called by its stored form only, unless the bytes could not be had: that digest is of all.
        """
        if text in (self.name, self.place):
            return True
        if is_web(self.place):
            same = is_whole(self.place) and place_identity(text) == place_identity(self.place)
            return same or (self.is_standin and self.video == standin_digest(text))
        local = local_path(self.place.removeprefix(FRAMES))
        return local == path or ("/../" in local and named_path(local) == path)  # as older versions spell places

    @property
    def file(self) -> str:
        """Digest of the file that it is, or is cut from."""
        return self.content or self.video

    @property
    def is_standin(self) -> bool:
        """Whether its bytes could not be had."""
        return self.bytes == 0 and self.reject is not None and self.reject != RejectReason.EMPTY

    @property
    def origin(self) -> str:
        """What all videos have in common that were taken from one place."""
        return origin_digest(self.place, self.name)

    @property
    def written_down(self) -> set[str]:
        """The digests by which it is kept out for good."""
        if self.is_standin:
            return {self.video}
        return {self.video, self.file, self.origin} if self.place else {self.video, self.file}

    def goes(self, removed: Collection[str]) -> bool:
        """Tell whether it is one of the removed, or says that the bytes of one could not be had on some night."""
        return self.video in removed or self.content in removed or (self.is_standin and self.origin in removed)


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
        write_removed(storage, {digest for known in meant for digest in known.written_down})
        removed = read_removed(storage)
        holding = _units_holding(storage, removed)
        buried = _versions_listing(storage, holding)
        going = [known for videos in holding.values() for known in videos]
        gone = {known.video for known in going}
        affected = latest.version in buried
        forget(storage, removed | gone)
        plan = _forget_plan(storage, removed, latest, due=latest.version + (2 if affected else 1))
        newest = _published_without(storage, latest, holding, scratch) if affected else latest
        live = {version.version for version in live_versions(storage)} - set(buried)
        derived = purge_derived(
            runs,
            storage.uri,
            set(list_versions(storage)) - live,
            digests=removed | gone,
            names={known.name for known in (*meant, *going)} - {""},
        )
        for version in buried:
            bury_version(storage, version, newest.version)
        # read anew: a bucket has no lock. Tables of units name nobody, and one may be another writer's newest
        sweep(storage, live_versions(storage), plan, grace_s=0.0, table_grace_s=GRACE_S)
    return RemoveReport(
        version=newest.version,
        new=newest.version > latest.version,
        names=tuple(sorted({known.name for known in meant})),
        clips=latest.counts.clips - newest.counts.clips,
        buried=tuple(buried),
        deleted=derived.deleted,
        learnt=derived.learnt,
        mentions=derived.mentions,
    )


def _resolve(storage: Storage, videos: Iterable[str]) -> list[_Known]:
    """Find every video that is meant; all cuts of one file count as one."""
    meant = [known for text, found in _matches(storage, videos).items() for known in _one_file(storage, text, found)]
    had = {known.origin for known in meant if not known.is_standin}
    never_had = {known.place: known.origin for known in meant if known.is_standin and known.origin not in had}
    if never_had:  # on another night there were bytes, perhaps under another name
        for place, found in _matches(storage, sorted(never_had)).items():
            meant += _one_file(storage, place, {known for known in found if known.origin == never_had[place]})
    return meant


def _matches(storage: Storage, videos: Iterable[str]) -> dict[str, set[_Known]]:
    """Return what each text may mean: videos of that name or from that place, else those whose digest begins so."""
    paths = {text: named_path(text) for text in videos}
    digests = {text: file_digest(Path(path)) for text, path in paths.items() if Path(path).is_file()}
    named: dict[str, set[_Known]] = {text: set() for text in paths}
    prefixed: dict[str, set[_Known]] = {text: set() for text in paths}
    for known in _known_videos(storage):
        for text in named:
            if known.is_called(text, paths[text]) or digests.get(text) in (known.video, known.file):
                named[text].add(known)
            elif _PREFIX.fullmatch(text) and (known.video.startswith(text) or known.file.startswith(text)):
                prefixed[text].add(known)
    removed = read_removed(storage)
    for text, found in prefixed.items():
        if not found and _PREFIX.fullmatch(text):
            found |= {_Known(digest, "", "", "", 0, None) for digest in removed if digest.startswith(text)}
    return {text: named[text] or prefixed[text] for text in named}


def _one_file(storage: Storage, text: str, found: Collection[_Known]) -> list[_Known]:
    """Return what was found if it is one file; that its bytes could not be had on some night makes it no other."""
    if not found:
        raise DatasetError(
            f"{storage.uri} holds no video {text!r}; give its name as the dataset has it, the path that it was taken "
            f"from, or at least {SHORTEST_PREFIX} digits of its digest"
        )
    had = {known.origin for known in found if not known.is_standin}
    files = {
        known.file: known
        for known in sorted(found, key=lambda known: known.video)
        if not (known.is_standin and known.origin in had)
    }
    if len(files) > 1:
        fitting = ", ".join(f"{digest[:16]} ({known.name})" for digest, known in sorted(files.items())[:5])
        raise DatasetError(f"{text!r} fits {len(files)} videos: {fitting}; give the digest of the one that is meant")
    return [known for known in found if known.file in files]


def _known_videos(storage: Storage) -> Iterator[_Known]:
    for _, videos in _ledgers(storage, _stored_ledgers(storage)):
        yield from videos
    plan = read_plan(storage)
    for unit in plan.units if plan else ():
        yield from map(_Known.planned, unit.videos)


def _stored_ledgers(storage: Storage) -> list[str]:
    """Units that have a table of videos, listed or not: a name can be found until nothing has it any more."""
    keys = storage.list("videos/")
    return [key.removeprefix("videos/").removesuffix(".parquet") for key in keys if key.endswith(".parquet")]


def _ledgers(storage: Storage, units: Sequence[str]) -> Iterator[tuple[str, list[_Known]]]:
    """Yield each unit with its videos; some tables are read ahead, and none is kept: there may be a million."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ledger") as pool:
        for start in range(0, len(units), _READ_AHEAD):
            batch = units[start : start + _READ_AHEAD]
            yield from zip(batch, pool.map(partial(_ledger, storage), batch), strict=True)


def _ledger(storage: Storage, unit: str) -> list[_Known]:
    key = videos_key(unit)
    table = table_from_bytes(storage.read(key), VIDEO_COLUMNS, f"{storage.uri}/{key}")
    columns = [table[name].to_pylist() for name in ("video", "content", "name", "place", "bytes", "reject")]
    return [_Known(*row) for row in zip(*columns, strict=True)]


def _units_holding(storage: Storage, removed: Collection[str]) -> dict[str, list[_Known]]:
    """Return the units with a video that is removed, listed by a version or not, and the videos of each that go."""
    holding = {}
    for unit, videos in _ledgers(storage, _stored_ledgers(storage)):
        if going := [known for known in videos if known.goes(removed)]:
            holding[unit] = going
    return holding


def _versions_listing(storage: Storage, holding: Collection[str]) -> list[int]:
    """Return the versions that list one of these units, rising.

    Raises:
        CorruptShardError: a version lists a unit of which nobody can tell who is in it.
    """
    versions = live_versions(storage)  # before the tables: those of a version that is published meanwhile are there
    stored, found = set(_stored_ledgers(storage)), []
    for version in versions:
        listed = set(load_version(storage, version.version).units.column("unit"))  # perhaps a million: one at a time
        if lost := listed - stored:
            raise CorruptShardError(f"{storage.uri}/{videos_key(min(lost))} is absent; restore it from a copy first")
        if not listed.isdisjoint(holding):
            found.append(version.version)
    return found


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
            gone = [video for video in unit.videos if _Known.planned(video).goes(removed)]
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
    storage: Storage, latest: DatasetVersion, holding: dict[str, list[_Known]], scratch: Path
) -> DatasetVersion:
    """Rewrite the units that hold a removed video and publish the version that lists them instead."""
    reader = DatasetReader(storage, latest)
    units: list[ShardEntry] = []
    for entry in latest.units:
        if entry.unit not in holding:
            units.append(entry)
            continue
        gone = sorted(known.video for known in holding[entry.unit])
        rewritten = rewrite_unit(reader, [entry], rewritten_id([entry], f"without {gone}"), scratch, without=gone)
        if rewritten is not None:
            units.append(rewritten)
    made = next_version(latest, units, "remove")
    publish_version(storage, made)
    return made
