"""Check a dataset version against its own promises, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Collection

from infra.errors import DatasetError, StorageError
from pipeline.dataset.format import MAPS, META, members, shard_key
from pipeline.dataset.pending import unfinished_takedown
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.rewrite import is_left_out
from pipeline.dataset.sample import meta_from_bytes, regions_from_bytes
from pipeline.dataset.takedown import read_removed
from pipeline.dataset.tar import StoredTar
from pipeline.dataset.units import ShardEntry


def verify_dataset(reader: DatasetReader, on_unit: Callable[[str], None] | None = None) -> list[str]:
    """Return every problem found, one sentence each; an empty list means that the version is whole.

    Checked: the sha256 of every tar and table; that each tar holds exactly the manifest's samples, in order, at
    the manifest's offsets; that metadata parses and agrees with the manifest; type and shape of region maps; counts;
    that no video is here which was taken down.

    Args:
        reader: the version to check.
        on_unit: called with each unit's id when it is done (progress).
    """
    problems = []
    removed = read_removed(reader.storage)
    for entry in reader.version.units:
        try:
            problems += [f"unit {entry.unit}: {problem}" for problem in _unit_problems(reader, entry, removed)]
        except (DatasetError, StorageError) as error:
            problems.append(f"unit {entry.unit}: {error}")
        if on_unit is not None:
            on_unit(entry.unit)
    keys = [key for entry in reader.shards for key in _keys(reader, entry)]
    if len(keys) != len(set(keys)):
        problems.append(f"{len(keys) - len(set(keys))} clip keys occur more than once")
    return problems


def _keys(reader: DatasetReader, entry: ShardEntry) -> list[str]:
    try:
        return reader.manifest(entry.unit)["key"].to_pylist()
    except (DatasetError, StorageError):  # reported with its unit
        return []


def _unit_problems(reader: DatasetReader, entry: ShardEntry, removed: Collection[str]) -> list[str]:
    videos = reader.videos(entry.unit)
    rows = reader.manifest(entry.unit).to_pylist()
    counts = {
        "clips": (len(rows), entry.clips),
        "frames": (sum(row["frames"] for row in rows), entry.frames),
        "videos": (videos.num_rows, entry.videos),
        "clips of its videos": (sum(videos["clips"].to_pylist()), entry.clips),
    }
    problems = [f"{found} {name}, listed are {listed}" for name, (found, listed) in counts.items() if found != listed]
    problems += [
        unfinished_takedown(reader.storage, row["video"])
        for row in videos.select(["video", "content"]).to_pylist()
        if is_left_out(row, removed)
    ]
    return problems + (_tar_problems(reader, entry, rows) if entry.clips else [])


def _tar_problems(reader: DatasetReader, entry: ShardEntry, rows: list[dict]) -> list[str]:
    key = shard_key(entry.unit)
    if (size := reader.storage.size(key)) != entry.tar_bytes:
        return [f"{key} holds {size} bytes, listed are {entry.tar_bytes}; it is truncated or was replaced"]
    tar = StoredTar(reader.storage, key)
    problems: list[str] = []
    wanted = ((row, ending) for row in rows for ending in members(row["audio"]))
    for info, data in tar.members():
        row, ending = next(wanted, (None, ""))
        if row is None or info.name != row["key"] + ending:
            due = row["key"] + ending if row else "its end"
            return [*problems, f"{key} has member {info.name!r} where {due} is due"]
        try:
            problems += [f"{info.name}: {problem}" for problem in _member_problems(row, ending, info.offset, data)]
        except DatasetError as error:
            problems.append(f"{info.name}: {error}")
    if missing := next(wanted, None):
        problems.append(f"{key} ends before {missing[0]['key'] + missing[1]}")
    if tar.digest() != entry.tar_sha256:
        problems.append(f"{key} has another sha256 than version {reader.version.version} lists; restore it from a copy")
    return problems


def _member_problems(row: dict, ending: str, offset: int, data: bytes) -> list[str]:
    problems = [] if data else ["is empty"]
    if ending == members(row["audio"])[0] and offset != row["offset"]:
        problems.append(f"lies at byte {offset}, the manifest says {row['offset']}")
    if ending == META:
        meta = meta_from_bytes(data)
        told = (meta.key, meta.video, meta.track, meta.start_frame, meta.end_frame, meta.split, meta.audio)
        listed = tuple(row[name] for name in ("key", "video", "track", "start_frame", "end_frame", "split", "audio"))
        problems += [] if told == listed else [f"metadata says {told}, the manifest {listed}"]
    elif ending == MAPS:
        regions_from_bytes(data, row["frames"])
    return problems
