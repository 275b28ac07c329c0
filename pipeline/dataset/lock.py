"""One writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from infra.errors import DatasetError, StorageError
from infra.storage import LocalStorage, Storage

LOCK_NAME = ".lock"


@contextlib.contextmanager
def writer_lock(storage: Storage) -> Iterator[None]:
    """Hold the right to write a dataset in a folder; the kernel takes it back when the process dies.

    In a bucket there is no lock: two writers cannot damage anything there, since versions are put if absent, but
    the slower one's work is in vain and it says so.

    Raises:
        DatasetError: another process writes this dataset.
        StorageError: the folder cannot be made or written.
    """
    if not isinstance(storage, LocalStorage):
        yield
        return
    folder = Path(storage.uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write the dataset folder {folder}: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for orphan in folder.rglob(".tmp-*"):  # temporary names of a killed writer
            orphan.unlink(missing_ok=True)
        yield
    except BlockingIOError as error:
        raise DatasetError(f"another ingest writes {folder} at this moment; wait until it ends") from error
    finally:
        os.close(handle)
