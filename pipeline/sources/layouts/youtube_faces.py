"""YouTube Faces: a folder of JPEG frames is a video, its parent is the person."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence

from pipeline.config import SplitLists
from pipeline.faces.labelled import boxes_digest
from pipeline.media.frame_names import frame_entries, frame_number
from pipeline.sources.layouts.described import Described
from pipeline.sources.layouts.official import official_split

SETTLED_S = 2.0
"""A file that changed this short ago may change again within one tick of its file system's clock."""
_FOLDER = re.compile(r"/(?P<tree>frame_images_DB|aligned_images_DB)/(?P<person>[^/]+)/[^/]+$")


class YouTubeFaces:
    """``frame_images_DB/<Person>/<video>/<video>.<frame>.jpg``.

    The split is person-disjoint: a listed video (``Person/video``) or person decides for all videos of the person.
    """

    def __init__(self, lists: SplitLists | None = None, *, labelled_boxes: bool = False) -> None:
        """Read the split lists; ``labelled_boxes`` says whether the label files' boxes are used."""
        self._labelled_boxes = labelled_boxes
        self._split_of = official_split(lists, key=lambda name: re.split(r"[/\\]", name)[0])

    @staticmethod
    def is_video(folder: str, files: Sequence[str]) -> bool:
        """Tell whether a folder (posix path) with these files is one video of frames."""
        return _tree(folder) == "frame_images_DB" and any(frame_number(name) is not None for name in files)

    @staticmethod
    def is_copy(folder: str) -> bool:
        """Tell whether a folder belongs to ``aligned_images_DB``, the same faces again as aligned crops."""
        return _tree(folder) == "aligned_images_DB"

    def describe(self, path: str, root: str) -> list[Described] | None:
        """Return identity and split of a folder of frames, and which boxes it has; None for anything else."""
        match = _FOLDER.search(path)
        if match is None:
            return None
        boxes = boxes_digest(path) if self._labelled_boxes else ""
        return [Described(identity=f"ytf-{match['person']}", split=self._split_of.get(match["person"]), boxes=boxes)]


def frames_fingerprint(folder: str) -> tuple[int, str | None]:
    """Return (bytes, fingerprint) of a folder of frames; the fingerprint changes with any name, size or time.

    It is None while a frame is so young that it may change again within one tick of its file system's clock.

    Raises:
        OSError: the folder or a frame cannot be asked.
    """
    size, newest_ns, seen = 0, 0, hashlib.sha256()
    for entry in frame_entries(folder):
        status = entry.stat(follow_symlinks=False)
        size += status.st_size
        newest_ns = max(newest_ns, status.st_mtime_ns)
        seen.update(os.fsencode(entry.name) + f"\0{status.st_size}:{status.st_mtime_ns}\n".encode())
    is_settled = time.time_ns() - newest_ns > SETTLED_S * 1e9
    return size, f"{size}:{seen.hexdigest()[:32]}" if is_settled else None


def _tree(folder: str) -> str | None:
    match = _FOLDER.search(folder)
    return match["tree"] if match else None
