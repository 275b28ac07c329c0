"""What a layout tells of a video, and how its label files are found and read: bounded, and never out of the source."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from infra.errors import ConfigError
from pipeline.places import is_inside, printable
from pipeline.rows import Cut, LabelValue


@dataclass(frozen=True, slots=True)
class Described:
    """One video of a file: what its dataset knows of it.

    ``split`` is None where no list names the video. ``part`` tells apart the videos of one file. ``boxes`` is the
    digest of its labelled boxes, where they are used.
    """

    labels: dict[str, LabelValue] = field(default_factory=dict)
    identity: str | None = None
    split: str | None = None
    cut: Cut | None = None
    part: str = ""
    boxes: str = ""


class LabelsUsed:
    """Counts which of a label file's entries found their videos, so that labels without videos do not go unnoticed."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._entries: dict[str, int] = {}
        self._found: dict[str, set[str]] = {}

    def read(self, path: str, entries: int) -> None:
        """Say how many entries a label file has."""
        self._entries[path] = entries
        self._found[path] = set()

    def found(self, path: str, entry: str) -> None:
        """Say that an entry's video is here."""
        self._found[path].add(entry)

    def lacking(self) -> list[str]:
        """Return one sentence for each label file with entries whose videos are not here."""
        absent = {path: entries - len(self._found[path]) for path, entries in sorted(self._entries.items())}
        return [
            f"{printable(path)} has labels of {self._entries[path]} videos, and {count} of them are not here"
            for path, count in absent.items()
            if count
        ]


class NearestFile:
    """Finds a file of a given name beside or above a video, no higher than the folder in which the source lies."""

    def __init__(self, *names: str) -> None:
        """Give the names, the preferred one first."""
        self._names = names
        self._known: dict[tuple[str, str], str | None] = {}

    def __call__(self, folder: str, root: str) -> str | None:
        """Return the path of the nearest one, None without any; links that leave the source are not followed."""
        if (folder, root) not in self._known:
            top = os.path.dirname(root)
            here = next((path for path in self._paths(folder) if _is_ours(path, top)), None)
            above = os.path.dirname(folder)
            if here is None and folder not in (top, above):
                here = self(above, root)
            self._known[folder, root] = here
        return self._known[folder, root]

    def _paths(self, folder: str) -> list[str]:
        return [os.path.join(folder, name) for name in self._names]


def read_label_file(path: str, max_bytes: int) -> bytes:
    """Return a label file whole.

    Raises:
        ConfigError: it cannot be read or is larger than such files are.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"label file {printable(path)} cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise ConfigError(
            f"label file {printable(path)} is larger than {max_bytes >> 20} MiB, which no such file is; "
            "put the right one there, or move it away to go without labels"
        )
    return data


def _is_ours(path: str, top: str) -> bool:
    return os.path.isfile(path) and (not os.path.islink(path) or is_inside(path, top))
