"""Which files of a folder are the frames of a video, and in which order."""

from __future__ import annotations

import os
import re

FRAME_FPS = 24.0
"""Frames per second of a folder of frames: YouTube Faces was split at this rate."""
_FRAME = re.compile(r"(?:.*\.)?(?P<number>\d{1,18})\.jpe?g", re.IGNORECASE | re.DOTALL)


def frame_number(name: str) -> int | None:
    """Return the number of ``<anything>.<number>.jpg``, None where the name is no frame's."""
    match = _FRAME.fullmatch(name)
    return int(match["number"]) if match else None


def frame_entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the frames of a folder in numeric order (2 before 10), equal numbers by name.

    Regular files only: a link could lead anywhere, and is left out.

    Raises:
        OSError: the folder cannot be listed.
    """
    with os.scandir(folder) as entries:
        numbered = [(frame_number(entry.name), entry) for entry in entries]
        frames = [(number, entry) for number, entry in numbered if number is not None]
    frames.sort(key=lambda frame: (frame[0], os.fsencode(frame[1].name)))
    return [entry for _, entry in frames if entry.is_file(follow_symlinks=False)]
