"""One writer at a time, and only where a dataset is or may be."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from infra.errors import ConfigError, DatasetError, StorageError
from infra.storage import LocalStorage, Storage
from pipeline.dataset.format import is_own_key
from pipeline.dataset.versions import list_versions

LOCK_NAME = ".lock"
_HARMLESS = frozenset({"lost+found", "removed", "removed.json"})
"""What may lie where a dataset begins: a file system's own folder, and a list of what must not come back."""
_TEMPORARY = tuple(
    f"{folder}.tmp-*"
    for folder in (
        "", "shards/", "manifests/", "videos/", "versions/", f"work/{16 * '[0-9a-f]'}/", "units/", "staged/", "seen/"
    )
)  # fmt: skip


def refuse_other_things(storage: Storage) -> None:
    """Make sure that a dataset is here, or was begun, or that nothing is: a writer deletes what it takes for its own.

    Raises:
        ConfigError: something else is here.
        StorageError: the folder or bucket cannot be listed.
    """
    if list_versions(storage):
        return
    others = _others_in_folder(Path(storage.uri)) if isinstance(storage, LocalStorage) else _others_in_bucket(storage)
    if others:
        raise ConfigError(
            f"{storage.uri} is no dataset and holds other things ({others[0]}); give --out a new or empty place"
        )


def _others_in_folder(folder: Path) -> list[str]:
    """An ingest that was killed left at least its lock."""
    try:
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
    except OSError as error:
        raise StorageError(f"cannot read the dataset folder {folder}: {error.strerror or error}") from error
    return [] if LOCK_NAME in names else [name for name in names if name not in _HARMLESS]


def _others_in_bucket(storage: Storage) -> list[str]:
    """An ingest that was killed left nothing but names of ours; an empty "folder" is an object whose name ends in /."""
    return [key for key in storage.list() if not (key in ("", LOCK_NAME) or key.endswith("/") or is_own_key(key))]


@contextlib.contextmanager
def writer_lock(storage: Storage) -> Iterator[None]:
    """Hold the right to write a dataset in a folder; the kernel takes it back when the process dies.

    In a bucket there is no lock: two writers cannot damage anything there, since versions are put if absent, but
    the slower one's work is in vain and it says so.

    Raises:
        DatasetError: another process writes this dataset.
        StorageError: the folder cannot be made or written, or its file system grants no locks.
    """
    if not isinstance(storage, LocalStorage):
        yield
        return
    handle = _locked(Path(storage.uri))
    try:
        remove_temporaries(storage)
        yield
    finally:
        os.close(handle)


def remove_temporaries(storage: LocalStorage) -> None:
    """Delete the temporary names that a killed writer left in the dataset's own folders; StorageError if refused."""
    try:
        for pattern in _TEMPORARY:
            for orphan in Path(storage.uri).glob(pattern):
                orphan.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(Path(storage.uri), error) from error


def _locked(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise DatasetError(f"another ingest writes {folder} at this moment; wait until it ends") from error
        raise StorageError(
            f"the file system of {folder} grants no lock ({error.strerror or error}), so that two ingests could write "
            "at once; mount it with locks, or put the dataset elsewhere"
        ) from error
    return handle


def _unwritable(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write the dataset folder {folder}: {error.strerror or error}")
