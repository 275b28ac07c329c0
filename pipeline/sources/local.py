"""Where workers read a video's bytes: files in place, or fetched ones in the dataset's own store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from infra.storage import LocalStorage, Storage
from pipeline.places import local_path

STAGED = "staged:"
"""Begins the path of bytes in the dataset's own store; the key follows."""
STAGED_PREFIX = "staged/"
"""Begins the key of fetched bytes; their sha256 follows."""


@contextlib.contextmanager
def local_copy(path: str, storage: Storage, scratch: Path) -> Iterator[str]:
    """Yield what native libraries can open for a ``SourceVideo.path``: staged bytes of a bucket come to ``scratch``.

    Raises:
        StorageError, TransientError: the store does not give them.
    """
    if not path.startswith(STAGED):
        yield local_path(path)
        return
    key = path.removeprefix(STAGED)
    if isinstance(storage, LocalStorage):
        yield storage.local_path(key)
        return
    copy = scratch / Path(key).name
    try:
        storage.download(key, copy)
        yield str(copy)
    finally:
        copy.unlink(missing_ok=True)
