"""Folders and files as sources: list what looks like a video, and know each by its content."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from infra.errors import ConfigError
from infra.fetch import file_digest
from pipeline.rows import ListedVideo, SourceVideo
from pipeline.sources.layouts import labels_of_path

logger = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"}
    | {".ogv", ".vob", ".webm", ".wmv"}
)
"""Names that are believed. (Not .ts, which is TypeScript more often: transport streams are known by content.)"""
_NOT_VIDEO_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"M4A ", b"M4B ")
_SNIFF_BYTES = 189


def list_videos(sources: Sequence[str]) -> Iterator[ListedVideo]:
    """Yield the videos of all sources, sorted within each.

    A folder is walked recursively. Files with a video extension are taken, and files of any other name whose first
    bytes are a video container's; hidden names, symbolic links that leave the folder, and linked folders are not.
    A single file is taken as it is. What is taken and turns out to be no video becomes a reject, not an error.

    Raises:
        ConfigError: a source does not exist or cannot be listed.
    """
    for source in sources:
        root = Path(source).absolute()
        if root.is_dir():
            yield from _walk(root)
        elif root.exists():
            if not root.is_file():  # a pipe or device would block whoever opens it
                raise ConfigError(f"source {printable(source)} is neither a folder nor a file; give one of them")
            yield _listed(str(root), root.name)
        else:
            raise ConfigError(f"source {printable(source)} does not exist; give a folder of videos or a video file")


def identify(video: ListedVideo) -> SourceVideo:
    """Read a local file once and return it with its identity: the sha256 of its bytes.

    A file that cannot be read is identified by its name (``unreadable_digest``) and becomes a reject later.
    """
    path = local_path(video.place)
    try:
        size = os.stat(path).st_size
        digest = file_digest(Path(path))
    except OSError as error:
        logger.warning("%s cannot be read (%s); it will be listed as a reject", video.name, error.strerror)
        size, digest = 0, unreadable_digest(video.name)
    return SourceVideo(
        digest, video.place, video.name, size,
        labels=video.labels, split=video.split, identity=video.identity, place=video.place,
    )  # fmt: skip


def unreadable_digest(name: str) -> str:
    """Return the stand-in identity of a file whose bytes cannot be had."""
    return hashlib.sha256(b"unreadable:" + name.encode()).hexdigest()


def locator(path: str) -> str:
    """Return where a file is as text that any plan or table can hold: its path, or a ``file:`` URI if no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file:" + quote_from_bytes(os.fsencode(path))
    return path


def local_path(place: str) -> str:
    """Inverse of ``locator``."""
    return os.fsdecode(unquote_to_bytes(place.removeprefix("file:"))) if place.startswith("file:") else place


def printable(path: str) -> str:
    """Return a file name as valid UTF-8; bytes that are none are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Tell whether ``path`` lies in ``folder`` once links are resolved."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # Path.resolve raises on a circle


def _listed(path: str, name: str) -> ListedVideo:
    labels, identity = labels_of_path(path)
    try:
        status = os.stat(path)
        size, fingerprint = status.st_size, f"{status.st_size}:{status.st_mtime_ns}"
    except OSError:  # listed all the same, and a reject later
        size, fingerprint = None, None
    return ListedVideo(locator(path), printable(name), size, fingerprint, labels=labels, identity=identity)


def _walk(root: Path) -> Iterator[ListedVideo]:
    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise ConfigError(f"source {printable(str(root))} cannot be listed: {error.strerror}")
        logger.warning("folder %s cannot be listed (%s); it is left out", printable(error.filename), error.strerror)

    found = []
    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in files if not name.startswith(".")]
    for path in sorted(found):
        if _is_offered(path, root):
            yield _listed(path, Path(path).relative_to(root).as_posix())


def _is_offered(path: str, root: Path) -> bool:
    if os.path.islink(path) and not is_inside(path, root):
        logger.warning("%s is a link that leaves its source; it is not followed", printable(path))
        return False
    has_extension = Path(path).suffix.lower() in VIDEO_EXTENSIONS
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or device would block whoever opens it
            return False
        if has_extension:
            return True
        with open(path, "rb") as file:
            return looks_like_video(file.read(_SNIFF_BYTES))
    except OSError:  # cannot be asked: believe the extension
        return has_extension


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
