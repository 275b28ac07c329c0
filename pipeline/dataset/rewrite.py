"""Make new units of old ones: the same clips, byte for byte, in other shards. Compaction and takedown stand on this."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from infra.errors import CorruptShardError
from infra.fetch import file_digest
from pipeline.dataset.format import members, shard_key
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.tar import TarWriter, unpack
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.writer import publish_unit, read_done


def rewritten_id(entries: Sequence[ShardEntry], change: str) -> str:
    """Return the id of the unit that a change makes of some units: a function of all that decides its bytes.

    Args:
        entries: the units that go in.
        change: what is done to them, in words that differ when the outcome does.
    """
    facts = [change, *(f"{entry.unit} {entry.tar_sha256} {entry.videos_sha256}" for entry in entries)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def is_left_out(row: dict[str, Any], without: Collection[str]) -> bool:
    """Tell whether a row of a table of videos is one of these: by its digest, or by that of the bytes it is cut from.

    Args:
        row: with ``video`` and ``content``.
        without: sha256 digests.
    """
    return row["video"] in without or row["content"] in without


def rewrite_unit(
    reader: DatasetReader,
    entries: Sequence[ShardEntry],
    unit: str,
    scratch: Path,
    *,
    without: Collection[str] = (),
    superseded: Collection[tuple[str, str]] = (),
) -> ShardEntry | None:
    """Publish one unit that holds what the given ones hold; the old ones stay as they are.

    A unit that has its done marker is not made again. Disk space for twice the shards is needed, and memory for one
    clip and the tables.

    Args:
        reader: a version that lists the old units.
        entries: the old units.
        unit: id of the new one (``rewritten_id``).
        scratch: local folder.
        without: digests of videos (or of the bytes they are cut from) that are left out, with all their clips.
        superseded: (unit, video) of rejects that a later unit has an outcome for; they are left out, too.

    Returns:
        The new unit's entry, None when no video is left: then there is no new unit.

    Raises:
        CorruptShardError: an old shard is not what the version lists. Nothing of the new unit is listed anywhere.
        StorageError: the disk or the store refuses.
    """
    done = read_done(reader.storage, unit)
    if done is not None:
        return done
    videos = [
        row
        for entry in entries
        for row in reader.videos(entry.unit).to_pylist()
        if not is_left_out(row, without) and (entry.unit, row["video"]) not in superseded
    ]
    if not videos:
        return None
    path = scratch / f"{unit}.tar"
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(path.unlink, missing_ok=True)
        rows = _merge_shards(reader, entries, {row["video"] for row in videos}, path, cleaning)
        return publish_unit(reader.storage, unit, path, rows, sorted(videos, key=lambda row: row["video"]))


def _merge_shards(
    reader: DatasetReader, entries: Sequence[ShardEntry], kept: Collection[str], path: Path, cleaning: ExitStack
) -> list[dict[str, Any]]:
    """Write the clips of the kept videos, sorted by key, and return their manifest rows. No clips: no file."""
    sources: list[tuple[dict[str, Any], Path]] = []
    for entry in entries:
        rows = [row for row in reader.manifest(entry.unit).to_pylist() if row["video"] in kept]
        if rows:
            shard = path.parent / f"from-{entry.unit}.tar"
            cleaning.callback(shard.unlink, missing_ok=True)
            _fetch(reader, entry, shard)
            sources += [(row, shard) for row in rows]
    if not sources:
        return []
    merged = []
    with TarWriter(path) as tar:
        for row, shard in sorted(sources, key=lambda source: source[0]["key"]):
            start = tar.offset
            for name, data in _sample(row, shard).items():
                tar.add(name, data)
            merged.append({**row, "offset": start, "size": tar.offset - start})
    return merged


def _fetch(reader: DatasetReader, entry: ShardEntry, path: Path) -> None:
    """Make a local copy of a shard, checked against the version's digest."""
    key = shard_key(entry.unit)
    reader.storage.download(key, path)
    if (found := file_digest(path)) != entry.tar_sha256:
        raise CorruptShardError(
            f"{reader.storage.uri}/{key} has sha256 {found[:12]}…, and version {reader.version.version} lists "
            f"{str(entry.tar_sha256)[:12]}…; restore it from a copy, or take its videos out and ingest them again"
        )


def _sample(row: dict[str, Any], shard: Path) -> dict[str, bytes]:
    with shard.open("rb") as file:  # opened for each clip: a unit may be made of a thousand shards
        file.seek(row["offset"])
        sample = unpack(file.read(row["size"]))
    if list(sample) != [row["key"] + ending for ending in members(row["audio"])]:
        raise CorruptShardError(f"clip {row['key']}: the bytes at its place belong to {', '.join(sample)}")
    return sample
