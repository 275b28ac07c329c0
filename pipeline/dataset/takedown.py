"""Takedown: what was removed never comes back, and nothing of it stays."""

from __future__ import annotations

import json
import re

from infra.errors import DatasetError
from infra.storage import Storage

REMOVED_KEY = "removed.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_removed(storage: Storage) -> frozenset[str]:
    """Return the digests (sha256, hex) that must never return; none where nothing was taken down.

    Both a video's digest and the digest of its bytes are there, so that other cuts of a file stay out, too.

    Raises:
        DatasetError: the list is damaged; to go on without it would bring a removed person back.
    """
    if not storage.exists(REMOVED_KEY):
        return frozenset()
    try:
        digests = json.loads(storage.read(REMOVED_KEY))["removed"]
        whole = isinstance(digests, list) and all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in digests)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DatasetError(f"{storage.uri}/{REMOVED_KEY} is damaged; restore it from a copy before the next ingest")
    return frozenset(digests)
