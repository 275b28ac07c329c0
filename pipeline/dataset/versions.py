"""Dataset versions: numbered, immutable objects that list what the dataset holds. Nothing else makes a clip exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import DatasetError, StorageError, TransientError
from infra.storage import Storage
from pipeline.dataset.format import VERSION_SCHEMA, units_key, version_key
from pipeline.dataset.units import ShardEntry, Units, units_digest

_VERSION_NAME = re.compile(r"versions/(\d{6})\.json")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Frozen):
    """Under which terms one weight file that made the data stands."""

    part: str
    licence: str
    source: str
    sha256: str


class VersionFacts(_Frozen):
    """What is said of a version as a whole."""

    version: int
    parent: int | None
    created: str
    """When it was published, ISO 8601, UTC."""
    why: str = "ingest"
    """What made it: ingest, compact, remove or reparse."""
    recipe: dict[str, Any]
    """Every setting that changes output bytes."""
    recipe_digest: str
    faces: str
    """Kind of the face back-end."""
    licences: tuple[Licence, ...]
    source_licences: tuple[str, ...] = Field(min_length=1)
    """Of the videos, as those who ingested them stated it; each once. What one ingest states is never taken back."""


class Counts(_Frozen):
    """Totals over all units of a version; ``videos`` counts listed ones, rejected ones among them."""

    videos: int
    clips: int
    frames: int
    shards: int


class VersionRecord(VersionFacts):
    """``versions/NNNNNN.json``: a version without its units, which stand in a table that it names by its sha256."""

    counts: Counts
    units_sha256: str | None
    """None in a version of schema 2, whose file lists the units itself."""


class DatasetVersion(VersionFacts):
    """A version with its units."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    units: Units

    @property
    def counts(self) -> Counts:
        """Totals over the units."""
        totals = {name: int(self.units.numbers(name).sum()) for name in ("videos", "clips", "frames")}
        return Counts(**totals, shards=int((self.units.numbers("clips") > 0).sum()))

    def entry(self, unit: str) -> ShardEntry:
        """Return one unit's entry; DatasetError when this version does not list it."""
        found = self.units.find(unit)
        if found is None:
            raise DatasetError(f"version {self.version} lists no unit {unit!r}; what no version lists does not exist")
        return found


class Tombstone(_Frozen):
    """What stands under the number of a version that must not be read any more; ``successor`` takes its place."""

    version: int
    removed: Literal[True] = True
    successor: int


def list_versions(storage: Storage) -> list[int]:
    """Return the version numbers that were ever published, rising; those of removed versions among them."""
    found = (_VERSION_NAME.fullmatch(key) for key in storage.list("versions/"))
    return sorted(int(match[1]) for match in found if match)


def live_versions(storage: Storage) -> list[VersionRecord]:
    """Return the versions that can be read, rising, without their units; DatasetError when one is damaged."""
    found = (read_version(storage, number) for number in list_versions(storage))
    return [version for version in found if isinstance(version, VersionRecord)]


def latest_version(storage: Storage) -> DatasetVersion | None:
    """Return the newest version, None for a store that has none yet."""
    numbers = list_versions(storage)
    return load_version(storage, numbers[-1]) if numbers else None


def require_dataset(storage: Storage) -> None:
    """Raise DatasetError where no version ever was: nothing must be made or deleted in a folder that is no dataset."""
    newest_version(storage)


def newest_version(storage: Storage) -> DatasetVersion:
    """Return the newest version, DatasetError where there is none."""
    found = latest_version(storage)
    if found is None:
        raise DatasetError(f"{storage.uri} holds no dataset version; make one with `marlin ingest SOURCE --out …`")
    return found


def load_version(storage: Storage, version: int) -> DatasetVersion:
    """Read one version and its units.

    Raises:
        DatasetError: it is absent, removed, damaged, or of another schema.
    """
    found, units = _parsed(storage, version)
    if isinstance(found, VersionRecord):
        facts = {name: getattr(found, name) for name in VersionFacts.model_fields}
        return DatasetVersion(**facts, units=units if units is not None else _units(storage, found))
    successor: VersionRecord | Tombstone = found
    while isinstance(successor, Tombstone):
        successor = read_version(storage, successor.successor)
    raise DatasetError(f"version {version} of {storage.uri} was removed; version {successor.version} takes its place")


def read_version(storage: Storage, version: int) -> VersionRecord | Tombstone:
    """Read one version's file, or what stands in its place; errors as ``load_version``, but for a removed one."""
    return _parsed(storage, version)[0]


def _parsed(storage: Storage, version: int) -> tuple[VersionRecord | Tombstone, Units | None]:
    """A version's file, and the units where these stand in it (schema 2)."""
    key = version_key(version)
    if not storage.exists(key):
        known = ", ".join(map(str, list_versions(storage))) or "none"
        raise DatasetError(f"{storage.uri} has no version {version} (there: {known}); make one with `marlin ingest`")
    units = None
    try:
        tree = json.loads(storage.read(key))
        schema = tree.pop("schema", None) if isinstance(tree, dict) else None
        if schema not in (2, 3, VERSION_SCHEMA):
            cure = "ingest its sources anew into another --out" if schema == 1 else "use the code that made it"
            raise DatasetError(
                f"{storage.uri}/{key} has schema {schema}, this code reads 2 to {VERSION_SCHEMA}; {cure}"
            )
        if schema < VERSION_SCHEMA and "source_licence" in tree:
            tree["source_licences"] = (tree.pop("source_licence"),)
        if schema == 2 and "units" in tree:
            units = Units.of(ShardEntry.model_validate(entry) for entry in tree.pop("units"))
            listed = DatasetVersion.model_validate({**tree, "units": units})
            tree |= {"counts": listed.counts, "units_sha256": None}
        loaded = (Tombstone if tree.get("removed") else VersionRecord).model_validate(tree)
    except (ValidationError, ValueError, TypeError, OverflowError) as error:
        first = str(error).splitlines()[0]
        raise DatasetError(f"{storage.uri}/{key} is damaged ({first}); an earlier version may be whole") from error
    if loaded.version != version:
        raise DatasetError(f"{storage.uri}/{key} calls itself version {loaded.version}; it was renamed or damaged")
    if isinstance(loaded, Tombstone) and loaded.successor <= version:
        raise DatasetError(f"{storage.uri}/{key} names version {loaded.successor} as its successor; it is damaged")
    return loaded, units


def _units(storage: Storage, record: VersionRecord) -> Units:
    """Read the table of units that a version names."""
    key = units_key(str(record.units_sha256))
    try:
        data = storage.read(key)
        if units_digest(data) != record.units_sha256:
            raise ValueError("its sha256 is another")
        return Units.from_bytes(data)
    except TransientError:
        raise
    except (StorageError, ValueError, OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{storage.uri}/{key}, the units of version {record.version}, is damaged or absent ({error}); restore it "
            "from a copy; an earlier version may be whole"
        ) from error


def next_version(parent: DatasetVersion, units: Iterable[ShardEntry], why: str, **changes: Any) -> DatasetVersion:
    """Return the version that follows ``parent`` with other units; ``changes`` replaces further fields."""
    numbers = {"version": parent.version + 1, "parent": parent.version}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    listed = units if isinstance(units, Units) else Units.of(units)
    return parent.model_copy(update={**numbers, "created": created, "why": why, "units": listed, **changes})


def publish_version(storage: Storage, version: DatasetVersion) -> None:
    """Write the table of units, then create the version; from this moment its clips exist.

    Raises:
        DatasetError: another writer made this number first; nothing is changed that a reader sees.
    """
    data = version.units.to_bytes()
    facts = {name: getattr(version, name) for name in VersionFacts.model_fields}
    record = VersionRecord(**facts, counts=version.counts, units_sha256=units_digest(data))
    storage.write(units_key(str(record.units_sha256)), data)  # even where it is: a vacuum goes by its age
    if not storage.put_if_absent(version_key(version.version), _to_json(record)):
        raise DatasetError(
            f"version {version.version} of {storage.uri} was published by another ingest meanwhile; run again, "
            "and let one ingest at a time write a dataset"
        )


def bury_version(storage: Storage, version: int, successor: int) -> None:
    """Put a tombstone in the place of a version: what it listed cannot be found through it any more."""
    storage.write(version_key(version), _to_json(Tombstone(version=version, successor=successor)))


def _to_json(file: VersionRecord | Tombstone) -> bytes:
    return json.dumps({"schema": VERSION_SCHEMA, **file.model_dump(mode="json")}, indent=1, ensure_ascii=False).encode()


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names: ``{"track": {"margin": 1.3}}`` → ``{"track.margin": 1.3}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
