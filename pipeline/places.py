"""Where a video's bytes are, as text that any plan or table can hold."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from infra.errors import ConfigError

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
    quoted = os.fsencode(place.removeprefix("file:"))
    return os.fsdecode(unquote_to_bytes(quoted)) if place.startswith("file:") else place


def named_path(text: str) -> str:
    """Return the one spelling of a path that a person names, as a path or a ``file:`` URI, so that it is one place.

    It is absolute, without ``.``, ``..`` or doubled slashes. Links are not followed: names and labels come from the
    path that was given. (Only ``..`` after a link means what it means to the system: the parent of its target.)

    Raises:
        ConfigError: the URI names another machine.
    """
    path = text
    if text.startswith("file:/"):
        uri = text.removeprefix("file:")
        host = uri[2:].partition("/")[0] if uri.startswith("//") else ""
        if host not in ("", "localhost"):
            raise ConfigError(f"{text} names the machine {host!r}; for a path of this machine write file:///…")
        path = local_path("file:" + (uri[2 + len(host) :] if uri.startswith("//") else uri))
    spelled = "/"
    for part in os.path.join(os.getcwd(), path).split("/"):
        if part == "..":
            spelled = os.path.dirname(os.path.realpath(spelled) if os.path.islink(spelled) else spelled)
        elif part not in ("", "."):
            spelled = os.path.join(spelled, part)
    return spelled


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
