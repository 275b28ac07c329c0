"""Where a video's bytes are, as text that any plan or table can hold."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

FRAMES = "frames:"
"""Begins the place of a folder of frames that is one video."""


def locator(path: str) -> str:
    """Return where a file is: its path, or a ``file:`` URI if the path is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file:" + quote_from_bytes(os.fsencode(path))
    return path


def local_path(place: str) -> str:
    """Inverse of ``locator``."""
    return os.fsdecode(unquote_to_bytes(place.removeprefix("file:"))) if place.startswith("file:") else place


def frames_place(folder: str) -> str:
    """Return the place of an absolute folder of frames."""
    return FRAMES + locator(folder)


def frames_folder(place: str) -> str | None:
    """Inverse of ``frames_place``; None for the place of anything else."""
    return local_path(place.removeprefix(FRAMES)) if place.startswith(FRAMES) else None


def printable(path: str) -> str:
    """Return a file name as valid UTF-8; bytes that are none are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Tell whether ``path`` lies in ``folder`` once links are resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # Path.resolve raises on a circle
