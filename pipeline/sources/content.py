"""Identity of a video by what it holds: the bytes of a file, the frames of a folder, a part of either."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from infra.fetch import file_digest
from pipeline.media.frame_names import frame_entries
from pipeline.places import frames_folder, local_path
from pipeline.rows import Cut


def content_digest(place: str) -> tuple[str, int]:
    """Return (sha256 in hex, bytes) of what lies at a local place: a path, a ``file:`` URI or ``frames:`` and a folder.

    A folder of frames is known by its frames' names and digests, sorted by name: it may be moved, and files beside
    the frames do not count.

    Raises:
        OSError: it cannot be read; FileNotFoundError also for a folder without one frame.
    """
    folder = frames_folder(place)
    if folder is not None:
        return _frames_digest(folder)
    path = Path(local_path(place))
    return file_digest(path), path.stat().st_size


def cut_digest(content: str, cut: Cut | None, boxes: str = "") -> str:
    """Return the identity of a part of a file whose bytes have the digest ``content``; ``content`` itself if uncut.

    Two parts of one file are two videos; the same part of a copy is the same video. ``boxes``, the digest of labelled
    boxes, counts where there are any: the same frames with other boxes are another video of the same content.
    """
    if cut is None and not boxes:
        return content
    made: list[object] = [content]
    if cut is not None:
        box = None if cut.box is None else [float(side) for side in cut.box]
        made.append([float(cut.start_s), None if cut.end_s is None else float(cut.end_s), box])  # 1 and 1.0 are one
    if boxes:
        made.append(boxes)
    return hashlib.sha256(json.dumps(made, separators=(",", ":")).encode()).hexdigest()


def _frames_digest(folder: str) -> tuple[str, int]:
    total, bytes_read = hashlib.sha256(), 0
    frames = sorted(frame_entries(folder), key=lambda entry: os.fsencode(entry.name))
    if not frames:
        raise FileNotFoundError(errno.ENOENT, "no frame in the folder", folder)
    for entry in frames:
        total.update(os.fsencode(entry.name) + b"\0" + file_digest(Path(entry.path)).encode() + b"\n")
        bytes_read += entry.stat(follow_symlinks=False).st_size
    return total.hexdigest(), bytes_read
