"""What was taken down: the list of digests that must never return, and the lists that must forget them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import DatasetError
from infra.storage import Storage
from pipeline.dataset.format import SCHEMA

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


def write_removed(storage: Storage, digests: Collection[str]) -> None:
    """Write down the digests that must never return; all that were written down before are among them."""
    text = json.dumps({"schema": SCHEMA, "removed": sorted(digests)}, indent=1)
    if digests != read_removed(storage):
        storage.write(REMOVED_KEY, text.encode())


def forget_seen(storage: Storage, digests: Collection[str]) -> None:
    """Delete every row of ``seen/*.parquet`` that holds one of the digests, in whatever column."""
    wanted = pa.array(sorted(digests), pa.string())
    for key in storage.list("seen/"):
        if not key.endswith(".parquet"):
            continue
        table = pq.read_table(io.BytesIO(storage.read(key)), use_threads=False)
        kept = table
        for name in table.column_names:
            if pa.types.is_string(table.schema.field(name).type):
                kept = kept.filter(pc.invert(pc.is_in(kept[name], wanted)))
        if kept.num_rows < table.num_rows:
            buffer = io.BytesIO()
            pq.write_table(kept, buffer, compression="zstd")
            storage.write(key, buffer.getvalue())
