"""The units of a version, held as columns: a million of them take 150 MB and a moment to read."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from pipeline.dataset.format import SPLITS, UNIT_COLUMNS
from pipeline.tables import read_table, table_bytes

_DIGESTS = ("tar_sha256", "manifest_sha256", "videos_sha256")
_ROWS_AT_ONCE = 10_000


class ShardEntry(BaseModel):
    """One unit as a version lists it.

    A unit whose videos all were rejected has no tar (``tar_bytes`` 0, ``tar_sha256`` None) and an empty manifest.
    ``pretrain`` counts, for each split, the clips long enough for pretraining.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: str
    tar_sha256: str | None
    tar_bytes: int
    manifest_sha256: str
    videos_sha256: str
    clips: int
    frames: int
    videos: int
    pretrain: dict[str, int] = {}


class Units(Sequence[ShardEntry]):
    """A sequence of entries that are made when they are asked for; columns are there at once."""

    def __init__(self, table: pa.Table) -> None:
        """Hold a table with the columns ``UNIT_COLUMNS``."""
        self._table = table

    @classmethod
    def of(cls, entries: Iterable[ShardEntry]) -> Units:
        """Return these entries as columns."""
        return cls(pa.Table.from_pylist([_row(entry) for entry in entries], schema=UNIT_COLUMNS))

    @classmethod
    def from_bytes(cls, data: bytes) -> Units:
        """Inverse of ``to_bytes``; ValueError, OSError or ``pa.ArrowException`` for anything else."""
        return cls(read_table(data).cast(UNIT_COLUMNS))

    def to_bytes(self) -> bytes:
        """Return the units as Parquet: the same units, the same bytes."""
        return table_bytes(self._table.combine_chunks())

    def __len__(self) -> int:
        return self._table.num_rows

    @overload
    def __getitem__(self, at: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, at: slice) -> Units: ...
    def __getitem__(self, at: int | slice) -> ShardEntry | Units:
        rows = range(len(self))[at]
        if isinstance(rows, range):
            return Units(self._table.take(np.arange(rows.start, rows.stop, rows.step)))
        return next(_entries(self._table.slice(rows, 1)))

    def __iter__(self) -> Iterator[ShardEntry]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from _entries(self._table.slice(start, _ROWS_AT_ONCE))

    def extended(self, entries: Iterable[ShardEntry]) -> Units:
        """Return these units, and more after them."""
        return Units(pa.concat_tables([self._table, Units.of(entries)._table]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self._table.equals(other._table)

    def find(self, unit: str) -> ShardEntry | None:
        """Return the entry of one unit, None where it is not listed."""
        order = self._by_name
        at = bisect_left(order, unit, key=self.name)
        return self[int(order[at])] if at < len(order) and self.name(order[at]) == unit else None

    @cached_property
    def _by_name(self) -> np.ndarray:
        """Rows in the order of their names, since who walks a version looks up every unit of it."""
        rows: np.ndarray = pc.sort_indices(self._table["unit"]).to_numpy()
        return rows

    def name(self, row: int) -> str:
        """Return the id of the unit in a row."""
        found: str = self._table["unit"][row].as_py()
        return found

    def column(self, name: str) -> list[Any]:
        """Return one field of every entry (not ``pretrain``)."""
        values: list[Any] = self._table[name].to_pylist()
        return [value and value.hex() for value in values] if name in _DIGESTS else values

    def numbers(self, name: str) -> np.ndarray:
        """Return one of ``tar_bytes``, ``clips``, ``frames``, ``videos`` of every entry, int64."""
        found: np.ndarray = self._table[name].to_numpy().astype(np.int64)
        return found

    def pretrain(self, split: str) -> np.ndarray:
        """Return the number of clips of a split that serve pretraining, for every entry, int64."""
        return self.numbers(_pretrain(split)) if split in SPLITS else np.zeros(len(self), np.int64)


def units_digest(data: bytes) -> str:
    """Return the digest under which a table of units is stored."""
    return hashlib.sha256(data).hexdigest()


def _pretrain(split: str) -> str:
    return f"pretrain_{split}"


def _row(entry: ShardEntry) -> dict[str, Any]:
    row = entry.model_dump(exclude={"pretrain"})
    row |= {name: bytes.fromhex(row[name]) for name in _DIGESTS if row[name] is not None}
    if unknown := entry.pretrain.keys() - set(SPLITS):
        raise ValueError(f"unit {entry.unit} counts clips of {', '.join(sorted(unknown))}; splits are {SPLITS}")
    return row | {_pretrain(split): entry.pretrain.get(split, 0) for split in SPLITS}


def _entries(table: pa.Table) -> Iterator[ShardEntry]:
    for row in table.to_pylist():
        digests = {name: row[name] and row[name].hex() for name in _DIGESTS}
        counted = {split: row.pop(_pretrain(split)) for split in SPLITS}
        pretrain = {split: count for split, count in sorted(counted.items()) if count}
        yield ShardEntry(**{**row, **digests, "pretrain": pretrain})
