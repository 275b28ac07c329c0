"""Merge small shards into few of the target size: a new version with exactly the same clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from infra.storage import Storage
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.pending import refuse_half_removed, refuse_while_planned, sweep_finished
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.rewrite import rewrite_unit, rewritten_id
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.versions import newest_version, next_version, publish_version, require_dataset

SMALL_SHARE = 0.5
"""A shard below this share of the target size is merged with others; so no shard is merged night after night."""


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did: the newest version now, whether it is new, and the number of shards before and after."""

    version: int
    new: bool
    before: int
    after: int


def plan_compaction(units: Sequence[ShardEntry], shard_bytes: int) -> list[tuple[ShardEntry, ...]]:
    """Return which units are merged: each group becomes one unit of at most ``shard_bytes``, all others stay.

    Small units are taken in the order of the version, until the next would not fit. Units without clips (all videos
    rejected) are small, too. Doing it again changes nothing.

    Args:
        units: the units of a version.
        shard_bytes: target size of a shard, bytes.
    """
    groups: list[tuple[ShardEntry, ...]] = []
    open_group: list[ShardEntry] = []
    for entry in units:
        if entry.tar_bytes >= shard_bytes * SMALL_SHARE:
            continue
        if sum(other.tar_bytes for other in open_group) + entry.tar_bytes > shard_bytes:
            groups.append(tuple(open_group))
            open_group = []
        open_group.append(entry)
    return [group for group in (*groups, tuple(open_group)) if len(group) > 1]


def compact_dataset(
    storage: Storage, scratch: Path, *, shard_bytes: int, on_group: Callable[[int, int], None] | None = None
) -> CompactReport:
    """Publish a version in which small shards are merged; with nothing to merge no version is made.

    Clips keep their keys and bytes. Deterministic: the same version gives the same shards, also when it was killed
    and ran again; readers see the old version or the new one. The old shards stay until ``vacuum``.

    Args:
        storage: the dataset.
        scratch: local folder with space for twice the target size.
        shard_bytes: target size of a shard, bytes.
        on_group: called with (groups done, groups in all) after each group (progress).

    Raises:
        DatasetError: no version is there, another process writes the dataset, an ingest is unfinished, or a shard
            is damaged.
        StorageError: the disk or the store refuses.
    """
    require_dataset(storage)
    with writer_lock(storage):
        parent = newest_version(storage)
        refuse_half_removed(storage, parent)
        refuse_while_planned(storage, parent, "compact it")
        sweep_finished(storage, parent)
        groups = plan_compaction(parent.units, shard_bytes)
        if not groups:
            return CompactReport(parent.version, False, parent.counts.shards, parent.counts.shards)
        reader = DatasetReader(storage, parent)
        superseded = superseded_rejects(reader)
        into: dict[str, ShardEntry] = {}
        gone = {entry.unit for group in groups for entry in group}
        for number, group in enumerate(groups, 1):
            dropped = sorted(pair for entry in group for pair in superseded if pair[0] == entry.unit)
            unit = rewritten_id(group, f"merge without {dropped}")
            merged = rewrite_unit(reader, group, unit, scratch, superseded=superseded)
            if merged is not None:
                into[group[-1].unit] = merged
            if on_group is not None:
                on_group(number, len(groups))
        units = [into.get(entry.unit, entry) for entry in parent.units if entry.unit not in gone or entry.unit in into]
        made = next_version(parent, units, "compact")
        publish_version(storage, made)
        sweep_finished(storage, made)
    return CompactReport(made.version, True, parent.counts.shards, made.counts.shards)


def superseded_rejects(reader: DatasetReader) -> Collection[tuple[str, str]]:
    """Return (unit, video) of every reject that a later unit of the version has an outcome for.

    In a merged unit such a row could come to stand after the outcome that replaced it.
    """
    tables = []
    for number, entry in enumerate(reader.version.units):
        table = reader.videos(entry.unit).select(["video", "clips"])
        tables.append(table.append_column("unit", pa.array([number] * table.num_rows, pa.int32())))
    if not tables:
        return frozenset()
    every = pa.concat_tables(tables)
    last = every.group_by("video", use_threads=False).aggregate([("unit", "max"), ("unit", "count")])
    again = last.filter(pc.greater(last["unit_count"], 1))
    latest = dict(zip(again["video"].to_pylist(), again["unit_max"].to_pylist(), strict=True))
    is_again = pc.is_in(every["video"], pa.array(latest, pa.string()))
    rejected = every.filter(pc.and_(is_again, pc.equal(every["clips"], 0)))
    return frozenset(
        (reader.version.units[row["unit"]].unit, row["video"])
        for row in rejected.to_pylist()
        if row["unit"] < latest[row["video"]]
    )
