"""A list of addresses with metadata: txt (one a line), csv, jsonl or parquet."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import ConfigError
from infra.s3 import split_s3
from pipeline.dataset.format import SPLITS
from pipeline.places import printable
from pipeline.rows import LabelValue, ListedVideo
from pipeline.sources.addresses import UNKNOWN, YOUTUBE, is_web, name_of_address, youtube_id
from pipeline.sources.web import UNCHANGING

MANIFEST_ENDINGS = (".txt", ".csv", ".jsonl", ".parquet")
_OWN_COLUMNS = frozenset({"url", "split", "identity", "name", "fingerprint"})
_LINE_BYTES = 1 << 20
_NAME_CHARACTERS = 1024


@dataclass(frozen=True, slots=True)
class ManifestSource:
    """A file of addresses: http(s)://, s3://bucket/key, youtube:ID, or addresses of YouTube.

    The column ``url`` must be there. ``split`` (train, val, test) and ``identity`` say what they say for any video,
    ``name`` is shown instead of the address, and a changed ``fingerprint`` says that the bytes changed; without it an
    address that was fetched once is not asked again. Every other column becomes a label, empty cells none. Paths of
    this machine are no addresses: a list from elsewhere must not choose which files are read. Characters that are no
    UTF-8 (half an emoji in JSON) become escapes, and an address with one is not fetched.
    """

    path: Path

    def list(self) -> Iterator[ListedVideo]:
        """See Source; ConfigError names the line that cannot be read."""
        rows = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[self.path.suffix.lower()]
        number = 0
        try:
            for number, row in rows(self.path):  # noqa: B007 -- named in the error
                yield _listed(row)
        except (OSError, ValueError, TypeError, RecursionError, csv.Error, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            where = f", after line {number}" if number else ""
            raise ConfigError(f"manifest {printable(str(self.path))}{where}: {reason}") from error


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), ""), start=1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield number, {"url": text}


def _csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        _check_columns(rows.fieldnames or [])
        for row in rows:
            if None in row:
                raise ValueError(f"line {rows.line_num} has more cells than the header")
            yield rows.line_num, row


def _jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), ""), start=1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("url"), str):
                raise ValueError(f'line {number} is not an object with a "url"')
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        _check_columns(file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=4096, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _check_columns(names: Any) -> None:
    if "url" not in names:
        raise ValueError(f"there is no column url (there: {', '.join(map(str, names)) or 'none'})")


def _listed(row: Mapping[str, Any]) -> ListedVideo:
    url = str(row["url"] or "").strip()
    split = _text(row.get("split")) or None
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    place, name = _place(url)
    labels = {_valid(str(key)): value for key, cell in row.items() if key not in _OWN_COLUMNS
              and (value := _label(cell)) is not None}  # fmt: skip
    return ListedVideo(
        place,
        (_text(row.get("name")) or name)[:_NAME_CHARACTERS],
        fingerprint=_text(row.get("fingerprint")) or UNCHANGING,
        labels=labels,
        split=split,
        identity=_text(row.get("identity")) or None,
    )


def _place(url: str) -> tuple[str, str]:
    """Place and name of an address."""
    shown = _valid(url)
    video = youtube_id(url)
    if video is not None:
        return YOUTUBE + video, YOUTUBE + video
    if is_web(url):
        return url, name_of_address(shown)
    if url.startswith("s3://") and shown == url:
        with contextlib.suppress(ConfigError):  # no bucket
            if key := split_s3(url)[1]:
                return url, key
    return UNKNOWN + shown[:_NAME_CHARACTERS], shown[:_NAME_CHARACTERS] or "(empty)"


def _label(cell: Any) -> LabelValue | None:
    if isinstance(cell, str):
        return _text(cell) or None
    if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
        return None
    if isinstance(cell, bool | int | float):
        return cell
    return json.dumps(cell, default=str, sort_keys=True)


def _text(cell: Any) -> str:
    return _valid(str(cell or "").strip())


def _valid(text: str) -> str:
    """Return text that every table can hold; JSON may bring halves of surrogate pairs, which are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
