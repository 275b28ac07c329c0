"""What was taken down: the digests that must never return, one object each, so that two takedowns lose none."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator

from infra.errors import DatasetError
from infra.storage import Storage

REMOVED_PREFIX = "removed/"
"""Begins the key of what was taken down; its digest follows. The objects are empty."""
REMOVED_KEY = "removed.json"
"""Where older code listed all of them; it is read as before."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_removed(storage: Storage) -> frozenset[str]:
    """Return the digests (sha256, hex) that must never return; none where nothing was taken down.

    Both a video's digest and the digest of its bytes are there, so that other cuts of a file stay out, too; and digests
    that say of a place that it held one of them, or should have (``pipeline.sources.standin``).

    Raises:
        DatasetError: the list is damaged; to go on without it would bring a removed person back.
    """
    return frozenset(_of_older_code(storage)) | frozenset(_one_by_one(storage))


def write_removed(storage: Storage, digests: Collection[str]) -> None:
    """Write down digests that must never return; what was written down before stays."""
    for digest in sorted(set(digests) - read_removed(storage)):
        storage.write(REMOVED_PREFIX + digest, b"")


def _one_by_one(storage: Storage) -> Iterator[str]:
    for key in storage.list(REMOVED_PREFIX):
        digest = key.removeprefix(REMOVED_PREFIX)
        if not _DIGEST.fullmatch(digest):
            raise DatasetError(
                f"{storage.uri}/{key} is no digest of what was removed; restore its name, or delete what is not ours"
            )
        yield digest


def _of_older_code(storage: Storage) -> list[str]:
    if not storage.exists(REMOVED_KEY):
        return []
    try:
        digests: list[str] = json.loads(storage.read(REMOVED_KEY))["removed"]
        whole = isinstance(digests, list) and all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in digests)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DatasetError(f"{storage.uri}/{REMOVED_KEY} is damaged; restore it from a copy before the next ingest")
    return digests
