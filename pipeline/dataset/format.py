"""Names and schemas of a dataset: where each object lies, what a clip's key looks like, which columns there are.

``docs/architecture.md`` ("A dataset") is this file in words. A change of meaning here raises ``SCHEMA``.
"""

from __future__ import annotations

import math
import re

import pyarrow as pa

from pipeline.rejects import RejectError
from pipeline.rows import RejectReason

SCHEMA = 2
"""Number of the format of tables and plans; a reader refuses any other."""
VERSION_SCHEMA = 4
"""Number of the format of version files. Still read: 2 (units in the file itself) and 3 (one licence of all videos)."""

PLAN_KEY = "plan.json"
REGION_STRIDE = 4
"""A region map is kept for every fourth frame."""
REGION_CELLS = 28
"""Cells along one side of a region map; a cell is 8x8 pixels of the 224x224 crop."""
PRETRAIN_FRAMES = 32
"""Least frames of a clip that serves pretraining: 16 frames at stride 2."""
SPLITS = ("train", "val", "test")

META, VIDEO, MAPS, AUDIO = ".json", ".mp4", ".regions.npy.gz", ".flac"
"""Endings of one sample's members; the audio is there only where the recipe asks for it and the source has sound."""

MOST_TRACK, MOST_FRAME = 9999, 9_999_999
"""Largest numbers that a key holds: with more digits, keys would not sort by track and time."""
KEY_PATTERN = re.compile(r"[0-9a-f]{16}-t\d{4}-f\d{7}-[0-9a-f]{8}")

_OWN_KEY = re.compile(
    r"plan\.json|removed\.json|removed/[0-9a-f]{64}|seen/[a-z0-9-]+\.parquet|staged/[0-9a-f]{64}"
    r"|work/[^/]+/[0-9a-f]{64}\.(clips\.tar|regions\.tar|outcome\.json)|units/[^/]+\.done"
    r"|shards/[0-9a-f]{16}\.tar|(manifests|videos)/[0-9a-f]{16}\.parquet|versions/[0-9a-f]{64}\.parquet"
)

MANIFEST_COLUMNS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("track", pa.int32(), nullable=False),
        pa.field("start_frame", pa.int32(), nullable=False),
        pa.field("end_frame", pa.int32(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("identity", pa.string()),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("pretrain", pa.bool_(), nullable=False),
        pa.field("audio", pa.bool_(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("face_px", pa.float32(), nullable=False),
        pa.field("blur", pa.float32(), nullable=False),
        pa.field("exposure", pa.float32(), nullable=False),
    ]
)
"""``manifests/<unit>.parquet``: one row a clip, in tar order."""

VIDEO_COLUMNS = pa.schema(
    [
        pa.field("video", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("frames", pa.int64()),
        pa.field("decoded", pa.int64(), nullable=False),
        pa.field("detected", pa.int64(), nullable=False),
        pa.field("faces", pa.int64(), nullable=False),
        pa.field("tracks", pa.int32(), nullable=False),
        pa.field("filtered", pa.string(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
        pa.field("duplicates", pa.int32(), nullable=False),
        pa.field("reject", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("seconds", pa.string(), nullable=False),
        pa.field("labels", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
    ]
)
"""``videos/<unit>.parquet``: one row a video, sorted by digest; nulls in width … frames say that probing failed."""

UNIT_COLUMNS = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("tar_sha256", pa.binary(32)),
        pa.field("tar_bytes", pa.int64(), nullable=False),
        pa.field("manifest_sha256", pa.binary(32), nullable=False),
        pa.field("videos_sha256", pa.binary(32), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("videos", pa.int32(), nullable=False),
        *(pa.field(f"pretrain_{split}", pa.int32(), nullable=False) for split in SPLITS),
    ]
)
"""``versions/<sha256>.parquet``: one row a unit, in the version's order; no tar where no clip came out."""


def is_own_key(key: str) -> bool:
    """Tell whether an ingest writes objects of this name (but for version files): what has another is not ours."""
    return _OWN_KEY.fullmatch(key) is not None


def shard_key(unit: str) -> str:
    """Where a unit's tar lies."""
    return f"shards/{unit}.tar"


def manifest_key(unit: str) -> str:
    """Where a unit's table of clips lies."""
    return f"manifests/{unit}.parquet"


def videos_key(unit: str) -> str:
    """Where a unit's table of videos lies."""
    return f"videos/{unit}.parquet"


def version_key(version: int) -> str:
    """Where version N lies."""
    return f"versions/{version:06d}.json"


def units_key(digest: str) -> str:
    """Where the table of units with this sha256 lies."""
    return f"versions/{digest}.parquet"


def done_key(unit: str) -> str:
    """Where the completion marker of a unit in progress lies."""
    return f"units/{unit}.done"


def work_key(unit: str, video: str, ending: str) -> str:
    """Where a single video's result lies while its unit is in progress; ``ending`` as ``clips.tar``."""
    return f"work/{unit}/{video}.{ending}"


def clip_key(video: str, track: int, start_frame: int, recipe: str) -> str:
    """Return a clip's WebDataset key from what identifies it.

    Args:
        video: sha256 (hex) of the source's bytes.
        track: number of the track in its video, from 0.
        start_frame: first frame, from 0.
        recipe: recipe digest (hex).

    Raises:
        RejectError: ``too_large``: the video has more tracks or frames than a key has digits for.
    """
    if track > MOST_TRACK or start_frame > MOST_FRAME:
        raise RejectError(
            RejectReason.TOO_LARGE,
            f"track {track} at frame {start_frame}: a clip's name has digits for {MOST_TRACK + 1} tracks and "
            f"{MOST_FRAME + 1} frames of a video; cut it into shorter ones",
        )
    key = f"{video[:16]}-t{track:04d}-f{start_frame:07d}-{recipe[:8]}"
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"{key!r} is no clip key: a number is negative, or a digest is not hexadecimal")
    return key


def members(audio: bool) -> tuple[str, ...]:
    """Endings of a sample's members in tar order, which is sorted, with or without audio."""
    return (AUDIO, META, VIDEO, MAPS) if audio else (META, VIDEO, MAPS)


def region_rows(frames: int) -> int:
    """Number of region maps of a clip of ``frames`` frames."""
    return math.ceil(frames / REGION_STRIDE)
