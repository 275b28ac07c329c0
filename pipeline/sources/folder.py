"""Folders and files as sources: list what looks like a video, and know each by its content."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.errors import ConfigError
from pipeline.places import frames_place, is_inside, locator, printable
from pipeline.rows import ListedVideo
from pipeline.sources.layouts import Layouts
from pipeline.sources.layouts.described import Described
from pipeline.sources.layouts.youtube_faces import SETTLED_S, YouTubeFaces, frames_fingerprint

logger = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"}
    | {".ogv", ".vob", ".webm", ".wmv"}
)
"""Names that are believed. (Not .ts, which is TypeScript more often: transport streams are known by content.)"""
_NOT_VIDEO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"M4A ", b"M4B ")
_SNIFF_BYTES = 189


@dataclass(frozen=True, slots=True)
class FolderSource:
    """A folder, walked recursively (absolute path)."""

    root: Path
    layouts: Layouts

    def list(self) -> Iterator[ListedVideo]:
        """Yield its videos sorted by path, and see Source.

        Files with a video extension are taken, and files of any other name whose first bytes are a video container's;
        hidden names, symbolic links that leave the folder, and linked folders are not. What is taken and turns out to
        be no video becomes a reject, not an error. In the layouts of known datasets (``layouts``) a folder of frames is
        one video, a file may hold several, and labels, identities and official splits come along.
        """
        yield from _walk(self.root, self.layouts)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A single file (absolute path), taken as it is."""

    path: Path
    layouts: Layouts

    def list(self) -> Iterator[ListedVideo]:
        """See Source."""
        described = self.layouts.describe(str(self.path), str(self.path.parent))
        status = None
        with contextlib.suppress(OSError):  # listed all the same, and a reject later
            status = os.stat(self.path)
        yield from _listed(str(self.path), self.path.name, described, status)


def begins_as_video(path: Path) -> bool:
    """Tell whether a file's first bytes are a video container's; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return looks_like_video(file.read(_SNIFF_BYTES))
    except OSError:
        return False


def _listed(
    path: str, name: str, described: Sequence[Described], status: os.stat_result | None, *, frames: bool = False
) -> Iterator[ListedVideo]:
    """Yield the videos of a file with this status (None: it cannot be asked), or of a folder of frames."""
    size: int | None = None
    fingerprint: str | None = None
    if frames:
        with contextlib.suppress(OSError):  # listed all the same, and a reject later
            size, fingerprint = frames_fingerprint(path)
    elif status is not None:
        settled = time.time() - status.st_mtime > SETTLED_S
        size, fingerprint = status.st_size, f"{status.st_size}:{status.st_mtime_ns}" if settled else None
    for video in described:
        yield ListedVideo(
            frames_place(path) if frames else locator(path),
            printable(f"{name}#{video.part}" if video.part else name),
            size,
            fingerprint,
            labels=video.labels,
            split=video.split,
            identity=video.identity and printable(video.identity),
            cut=video.cut,
            boxes=video.boxes,
        )


def _walk(root: Path, layouts: Layouts) -> Iterator[ListedVideo]:
    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise ConfigError(f"source {printable(str(root))} cannot be listed: {error.strerror}")
        logger.warning("folder %s cannot be listed (%s); it is left out", printable(error.filename), error.strerror)

    base = os.path.join(root, "")
    found: list[str] = []
    folders_of_frames: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if YouTubeFaces.is_copy(folder):
            folders.clear()
        elif YouTubeFaces.is_video(folder, files):
            folders.clear()
            folders_of_frames.add(folder)
        else:
            found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    for path in sorted([*found, *folders_of_frames]):
        frames = path in folders_of_frames
        offered, status = (True, None) if frames else _asked(path, root)
        if offered:
            name = path[len(base) :] if path != str(root) else root.name
            yield from _listed(path, name, layouts.describe(path, str(root)), status, frames=frames)


def _asked(path: str, root: Path) -> tuple[bool, os.stat_result | None]:
    """Tell whether a file is offered, and its status. One system call for a plain file with a video's name."""
    has_extension = os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if not is_inside(path, root):
                logger.warning("%s is a link that leaves its source; it is not followed", printable(path))
                return False, None
            status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe or device would block whoever opens it
            return False, None
        if has_extension:
            return True, status
        with open(path, "rb") as file:
            return looks_like_video(file.read(_SNIFF_BYTES)), status
    except OSError:  # cannot be asked: believe the extension
        return has_extension, None


def looks_like_video(head: bytes) -> bool:
    """Tell from its first 189 bytes whether a file is MP4, MOV, Matroska, AVI, ASF, FLV, Ogg or MPEG."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return head[8:12] not in _NOT_VIDEO_BRANDS
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    if head[:1] == b"G":  # MPEG transport stream: a sync byte every 188 bytes
        return head[188:189] == b"G"
    return head.startswith(
        (b"\x1aE\xdf\xa3", b"0&\xb2u", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")
    )
