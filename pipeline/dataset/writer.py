"""Merge the finished videos of a unit into its shard, and publish: manifest, table of videos, tar, done marker.

Everything here is a function of the finished videos: writing a unit twice gives the same bytes. Two ingests that carry
out one plan finish the videos in other seconds, though. So the tables are put if absent, and who comes second lists
those of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.errors import CorruptShardError, DatasetError, StorageError
from infra.fetch import file_digest
from infra.storage import Storage
from pipeline.dataset.format import (
    AUDIO,
    KEY_PATTERN,
    MANIFEST_COLUMNS,
    MAPS,
    META,
    PRETRAIN_FRAMES,
    SCHEMA,
    VIDEO,
    VIDEO_COLUMNS,
    done_key,
    manifest_key,
    members,
    shard_key,
    videos_key,
    work_key,
)
from pipeline.dataset.sample import meta_from_bytes, regions_from_bytes
from pipeline.dataset.tar import TarReader, TarWriter
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.versions import latest_version
from pipeline.dataset.work import CLIPS, OUTCOME, REGIONS, outcome_from_bytes
from pipeline.rows import ClipMeta, RejectReason, VideoInfo, VideoOutcome
from pipeline.tables import read_table, table_bytes

_OF_THE_RUN = ("seconds", "detail")
"""Columns of a table of videos that two runs over the same videos fill otherwise."""


def write_unit(storage: Storage, unit: str, videos: Sequence[str], scratch: Path) -> ShardEntry:
    """Make and publish the shard of a unit whose videos are all finished; readers see it whole or not at all.

    Args:
        storage: the dataset.
        unit: id of the unit.
        videos: digests of its videos, every one with an outcome in ``work/``.
        scratch: local folder for the tar being built.

    Raises:
        CorruptShardError: a finished video's result, or the tar just written, is not what it should be.
        StorageError: the disk or the store refuses; nothing of the unit is listed anywhere.
        DatasetError: another ingest has published this unit with other results; what it published stays as it is.
    """
    outcomes = [outcome_from_bytes(storage.read(work_key(unit, video, OUTCOME))) for video in sorted(videos)]
    path = scratch / f"{unit}.tar"
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(path.unlink, missing_ok=True)
        rows = _write_tar(storage, unit, [outcome.video for outcome in outcomes if outcome.clips], path)
        return publish_unit(storage, unit, path, rows, [_video_row(outcome) for outcome in outcomes])


def publish_unit(
    storage: Storage, unit: str, path: Path, rows: list[dict[str, Any]], videos: list[dict[str, Any]]
) -> ShardEntry:
    """Check a finished tar; publish its manifest, its table of videos, the tar itself, then the done marker.

    Args:
        storage: the dataset.
        unit: id of the unit.
        path: the tar; not looked at when there are no rows.
        rows: its clips in tar order, columns as in ``MANIFEST_COLUMNS``.
        videos: what became of the unit's videos, sorted by digest, columns as in ``VIDEO_COLUMNS``.

    Raises:
        CorruptShardError, StorageError, DatasetError: as ``write_unit``.
    """
    _check_tar(path, rows)
    tar_digest, tar_bytes = (file_digest(path), path.stat().st_size) if rows else (None, 0)
    of_tar = {"tar_sha256": tar_digest or ""}
    manifest = _put(storage, unit, manifest_key(unit), _parquet(rows, MANIFEST_COLUMNS, of_tar))
    table = _put(storage, unit, videos_key(unit), _parquet(videos, VIDEO_COLUMNS, {}))
    if rows:
        storage.upload(path, shard_key(unit))
        if (stored := storage.size(shard_key(unit))) != tar_bytes:
            raise StorageError(f"{storage.uri}/{shard_key(unit)} holds {stored} of {tar_bytes} bytes after writing")
    entry = ShardEntry(
        unit=unit,
        tar_sha256=tar_digest,
        tar_bytes=tar_bytes,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        videos_sha256=hashlib.sha256(table).hexdigest(),
        clips=len(rows),
        frames=sum(row["frames"] for row in rows),
        videos=len(videos),
        pretrain=dict(sorted(Counter(row["split"] for row in rows if row["pretrain"]).items())),
    )
    storage.write(done_key(unit), entry.model_dump_json().encode())
    return entry


def read_done(storage: Storage, unit: str) -> ShardEntry | None:
    """Return the entry of a finished unit, None while it has no done marker."""
    return ShardEntry.model_validate_json(storage.read(done_key(unit))) if storage.exists(done_key(unit)) else None


def _put(storage: Storage, unit: str, key: str, table: bytes) -> bytes:
    """Store a table and return the bytes to list: those of another writer of the unit, where they say the same."""
    if storage.put_if_absent(key, table):
        return table
    stored = storage.read(key)
    if _say_the_same(stored, table):
        return stored
    latest = latest_version(storage)
    if latest is not None and latest.units.find(unit) is not None:
        raise DatasetError(
            f"another ingest has published unit {unit} in {storage.uri} with other results; run again to go on from it"
        )
    storage.write(key, table)  # nobody lists what was there: a writer that died has left it
    return table


def _say_the_same(one: bytes, other: bytes) -> bool:
    """Tell whether two tables have the same rows for the same tar, whatever wrote them and however long it took."""
    if one == other:
        return True
    try:
        first, second = (
            table.drop_columns([name for name in _OF_THE_RUN if name in table.schema.names])
            for table in map(read_table, (one, other))
        )
    except (pa.ArrowException, OSError):
        return False
    return bool(first.equals(second, check_metadata=True))


def _write_tar(storage: Storage, unit: str, videos: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """Write the samples of all videos, sorted by key, and return their manifest rows. No clips: no file."""
    rows: list[dict[str, Any]] = []
    if not videos:
        return rows
    with TarWriter(path) as shard:
        for video in videos:
            for meta, sample in _finished_samples(storage, unit, video, path.parent):
                start = shard.offset
                for ending in members(meta.audio):
                    shard.add(meta.key + ending, sample[ending])
                rows.append(_manifest_row(meta, start, shard.offset - start))
    return rows


def _finished_samples(
    storage: Storage, unit: str, video: str, scratch: Path
) -> Iterator[tuple[ClipMeta, dict[str, bytes]]]:
    clips_path, regions_path = scratch / f"{video}.{CLIPS}", scratch / f"{video}.{REGIONS}"
    with contextlib.ExitStack() as cleaning:
        for path, ending in ((clips_path, CLIPS), (regions_path, REGIONS)):
            cleaning.callback(path.unlink, missing_ok=True)
            storage.download(work_key(unit, video, ending), path)
        clips = cleaning.enter_context(TarReader(clips_path))
        regions = cleaning.enter_context(TarReader(regions_path))
        for key in (name.removesuffix(VIDEO) for name in clips.names if name.endswith(VIDEO)):
            sample = {META: clips.read(key + META), VIDEO: clips.read(key + VIDEO), MAPS: regions.read(key + MAPS)}
            meta = meta_from_bytes(sample[META])
            regions_from_bytes(sample[MAPS], meta.frames)
            if meta.audio:
                sample[AUDIO] = clips.read(key + AUDIO)
            if not KEY_PATTERN.fullmatch(key) or meta.key != key or meta.video != video:
                raise CorruptShardError(
                    f"a clip of video {video[:16]} is filed as {key!r} and calls itself {meta.key!r}"
                )
            yield meta, sample


def _check_tar(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Read a tar back: its members must be those of the rows, in order, each at its offset."""
    if not rows:
        return
    with TarReader(path) as tar:
        expected = [row["key"] + ending for row in rows for ending in members(row["audio"])]
        if tar.names != expected:
            raise CorruptShardError(f"{path.name}: the tar just written has other members than its manifest")
        for name in expected:
            tar.read(name)


def _manifest_row(meta: ClipMeta, offset: int, size: int) -> dict[str, Any]:
    return {
        "key": meta.key,
        "video": meta.video,
        "name": meta.name,
        "track": meta.track,
        "start_frame": meta.start_frame,
        "end_frame": meta.end_frame,
        "frames": meta.frames,
        "fps": meta.fps,
        "offset": offset,
        "size": size,
        "split": meta.split,
        "identity": meta.identity,
        "labels": _json(meta.labels),
        "pretrain": meta.frames >= PRETRAIN_FRAMES,
        "audio": meta.audio,
        **meta.quality.model_dump(),
    }


def _video_row(outcome: VideoOutcome) -> dict[str, Any]:
    info = outcome.info
    return {
        "video": outcome.video,
        "name": outcome.name,
        "bytes": outcome.bytes,
        "width": info.width if info else None,
        "height": info.height if info else None,
        "fps": info.fps if info else None,
        "frames": info.frames if info else None,
        "decoded": outcome.decoded,
        "detected": outcome.detected,
        "faces": outcome.faces,
        "tracks": outcome.tracks,
        "filtered": _json(outcome.filtered),
        "clips": outcome.clips,
        "duplicates": outcome.duplicates,
        "reject": str(outcome.reject) if outcome.reject else None,
        "detail": outcome.detail,
        "seconds": _json(outcome.seconds),
        "labels": _json(outcome.labels),
        "place": outcome.place,
        "content": outcome.content,
    }


def outcome_from_row(row: dict[str, Any]) -> VideoOutcome:
    """Return what became of a video from its row in a table of videos (inverse of how ``write_unit`` makes it)."""
    known = all(row[name] is not None for name in ("width", "height", "fps", "frames"))
    same = ("video", "name", "bytes", "decoded", "detected", "faces", "tracks", "clips", "duplicates", "detail")
    return VideoOutcome(
        **{name: row[name] for name in (*same, "place", "content")},
        **{name: json.loads(row[name]) for name in ("filtered", "seconds", "labels")},
        info=VideoInfo(row["width"], row["height"], row["fps"], row["frames"]) if known else None,
        reject=RejectReason(row["reject"]) if row["reject"] else None,
    )


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _parquet(rows: list[dict[str, Any]], columns: pa.Schema, metadata: dict[str, str]) -> bytes:
    schema = columns.with_metadata({"schema": str(SCHEMA), **metadata})
    return table_bytes(pa.Table.from_pylist(rows, schema=schema))
