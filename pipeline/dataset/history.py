"""The versions of a dataset side by side: what each holds and why it was made, and what changed between two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from infra.storage import Storage
from pipeline.dataset.format import MANIFEST_COLUMNS, VIDEO_COLUMNS
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.versions import Counts, Tombstone, VersionRecord, list_versions, read_version

CLIP = ("video", "track", "start_frame", "end_frame")
"""What a clip is, however it was made."""
LABELS = ("labels", "split", "identity")
_OF_VIDEO = ("clips", "reject")


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version in a list; of a removed one only its number and its ``successor`` are known."""

    version: int
    parent: int | None = None
    created: str | None = None
    why: str | None = None
    counts: Counts | None = None
    successor: int | None = None


@dataclass(frozen=True, slots=True)
class ClipChange:
    """A clip (video, track, frames ``start`` … ``end - 1``) that two versions do not have alike."""

    video: str
    track: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What the second of two versions has otherwise than the first; every list is sorted.

    Clips are the same when video, track and frames are; such a clip was ``remade`` when its key differs (another
    recipe) and ``relabelled`` when labels, split or identity do. Videos count by digest, rejected ones among them; one
    was ``remade`` when its number of clips or its reject differs, or one of its clips was remade.
    """

    clips_added: tuple[ClipChange, ...]
    clips_removed: tuple[ClipChange, ...]
    clips_remade: tuple[ClipChange, ...]
    clips_relabelled: tuple[ClipChange, ...]
    videos_added: tuple[str, ...]
    videos_removed: tuple[str, ...]
    videos_remade: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Return the length of each list, by its name."""
        return {name: len(getattr(self, name)) for name in self.__slots__}


def version_rows(storage: Storage) -> list[VersionRow]:
    """Return every version that was ever published, rising; DatasetError when one is damaged."""
    return [_row(read_version(storage, number)) for number in list_versions(storage)]


def _row(version: VersionRecord | Tombstone) -> VersionRow:
    if isinstance(version, Tombstone):
        return VersionRow(version.version, successor=version.successor)
    return VersionRow(version.version, version.parent, version.created, version.why, version.counts)


def diff_versions(before: DatasetReader, after: DatasetReader) -> VersionDiff:
    """Compare two versions by their manifests and tables of videos; clips of units that both list are not read.

    Raises:
        CorruptShardError: a table is damaged.
        StorageError: the store cannot give one.
    """
    same = set(_units(before)) & set(_units(after))
    clips = [
        _concat(MANIFEST_COLUMNS, [reader.manifest(unit) for unit in _units(reader) if unit not in same])
        for reader in (before, after)
    ]
    touched = _concat(
        VIDEO_COLUMNS, [reader.videos(u) for reader in (before, after) for u in _units(reader) if u not in same]
    )["video"]
    videos = [  # a touched video may have another outcome in a unit that both list
        _concat(VIDEO_COLUMNS, [_rows_of(reader.videos(unit), touched) for unit in _units(reader)])
        for reader in (before, after)
    ]
    return diff_tables(*clips, *videos)


def diff_tables(
    clips_before: pa.Table, clips_after: pa.Table, videos_before: pa.Table, videos_after: pa.Table
) -> VersionDiff:
    """Compare tables of clips (``MANIFEST_COLUMNS``) and of videos (``VIDEO_COLUMNS``)."""
    old, new = _indexed(clips_before, CLIP, ("key", *LABELS)), _indexed(clips_after, CLIP, ("key", *LABELS))
    both = old.keys() & new.keys()
    remade = {clip for clip in both if old[clip][0] != new[clip][0]}
    videos_old, videos_new = (
        _indexed(videos_before, ("video",), _OF_VIDEO),
        _indexed(videos_after, ("video",), _OF_VIDEO),
    )
    treated = {video for video in videos_old.keys() & videos_new.keys() if videos_old[video] != videos_new[video]}
    return VersionDiff(
        clips_added=_clips(new.keys() - old.keys()),
        clips_removed=_clips(old.keys() - new.keys()),
        clips_remade=_clips(remade),
        clips_relabelled=_clips(clip for clip in both if old[clip][1:] != new[clip][1:]),
        videos_added=_videos(videos_new.keys() - videos_old.keys()),
        videos_removed=_videos(videos_old.keys() - videos_new.keys()),
        videos_remade=_videos(treated | {clip[:1] for clip in remade}),
    )


def _units(reader: DatasetReader) -> list[str]:
    return reader.version.units.column("unit")


def _rows_of(table: pa.Table, videos: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["video"], videos.combine_chunks()))


def _concat(columns: pa.Schema, tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([columns.empty_table(), *(table.cast(columns) for table in tables)])


def _indexed(table: pa.Table, by: tuple[str, ...], of: tuple[str, ...]) -> dict[tuple, tuple]:
    """Rows by some columns; of equal ones the last counts, as a later unit's outcome of a video does."""
    names, values = (zip(*(table[name].to_pylist() for name in columns), strict=True) for columns in (by, of))
    return dict(zip(names, values, strict=True))


def _clips(found: Iterable[tuple]) -> tuple[ClipChange, ...]:
    return tuple(ClipChange(*clip) for clip in sorted(found))


def _videos(found: Iterable[tuple]) -> tuple[str, ...]:
    return tuple(sorted(video for (video,) in found))
