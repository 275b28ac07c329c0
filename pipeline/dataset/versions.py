"""Dataset versions: numbered, immutable objects that list what the dataset holds. Nothing else makes a clip exist."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import DatasetError
from infra.storage import Storage
from pipeline.dataset.format import SCHEMA, version_key

_VERSION_NAME = re.compile(r"versions/(\d{6})\.json")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Licence(_Frozen):
    """Under which terms one weight file that made the data stands."""

    part: str
    licence: str
    source: str
    sha256: str


class ShardEntry(_Frozen):
    """One unit as a version lists it.

    A unit whose videos all were rejected has no tar (``tar_bytes`` 0, ``tar_sha256`` None) and an empty manifest.
    ``pretrain`` counts, for each split, the clips long enough for pretraining.
    """

    unit: str
    tar_sha256: str | None
    tar_bytes: int
    manifest_sha256: str
    videos_sha256: str
    clips: int
    frames: int
    videos: int
    pretrain: dict[str, int] = {}


class Counts(_Frozen):
    """Totals over all units of a version; ``videos`` counts listed ones, rejected ones among them."""

    videos: int
    clips: int
    frames: int
    shards: int


class DatasetVersion(_Frozen):
    """``versions/NNNNNN.json``."""

    schema_number: int = Field(default=SCHEMA, alias="schema")
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
    source_licence: str
    units: tuple[ShardEntry, ...]

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    @property
    def counts(self) -> Counts:
        """Totals over the units."""
        return Counts(
            videos=sum(entry.videos for entry in self.units),
            clips=sum(entry.clips for entry in self.units),
            frames=sum(entry.frames for entry in self.units),
            shards=sum(entry.clips > 0 for entry in self.units),
        )

    def entry(self, unit: str) -> ShardEntry:
        """Return one unit's entry; DatasetError when this version does not list it."""
        for entry in self.units:
            if entry.unit == unit:
                return entry
        raise DatasetError(f"version {self.version} lists no unit {unit!r}; what no version lists does not exist")


class Tombstone(_Frozen):
    """What stands under the number of a version that must not be read any more; ``successor`` takes its place."""

    schema_number: int = Field(default=SCHEMA, alias="schema")
    version: int
    removed: Literal[True] = True
    successor: int

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


def list_versions(storage: Storage) -> list[int]:
    """Return the version numbers that were ever published, rising; those of removed versions among them."""
    found = (_VERSION_NAME.fullmatch(key) for key in storage.list("versions/"))
    return sorted(int(match[1]) for match in found if match)


def live_versions(storage: Storage) -> list[DatasetVersion]:
    """Return the versions that can be read, rising; DatasetError when one is damaged."""
    found = (read_version(storage, number) for number in list_versions(storage))
    return [version for version in found if isinstance(version, DatasetVersion)]


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
    """Read one version.

    Raises:
        DatasetError: it is absent, removed, damaged, or of another schema.
    """
    found = read_version(storage, version)
    if isinstance(found, DatasetVersion):
        return found
    successor: DatasetVersion | Tombstone = found
    while isinstance(successor, Tombstone):
        successor = read_version(storage, successor.successor)
    raise DatasetError(f"version {version} of {storage.uri} was removed; version {successor.version} takes its place")


def read_version(storage: Storage, version: int) -> DatasetVersion | Tombstone:
    """Read one version, or what stands in its place; errors as ``load_version``, but for a removed one."""
    key = version_key(version)
    if not storage.exists(key):
        known = ", ".join(map(str, list_versions(storage))) or "none"
        raise DatasetError(f"{storage.uri} has no version {version} (there: {known}); make one with `marlin ingest`")
    try:
        tree = json.loads(storage.read(key))
        schema = tree.get("schema") if isinstance(tree, dict) else None
        if schema != SCHEMA:
            cure = "ingest its sources anew into another --out" if schema == 1 else "use the code that made it"
            raise DatasetError(f"{storage.uri}/{key} has schema {schema}, this code reads {SCHEMA}; {cure}")
        loaded = (Tombstone if tree.get("removed") else DatasetVersion).model_validate(tree)
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise DatasetError(f"{storage.uri}/{key} is damaged ({first}); an earlier version may be whole") from error
    if loaded.version != version:
        raise DatasetError(f"{storage.uri}/{key} calls itself version {loaded.version}; it was renamed or damaged")
    if isinstance(loaded, Tombstone) and loaded.successor <= version:
        raise DatasetError(f"{storage.uri}/{key} names version {loaded.successor} as its successor; it is damaged")
    return loaded


def next_version(parent: DatasetVersion, units: Sequence[ShardEntry], why: str, **changes: Any) -> DatasetVersion:
    """Return the version that follows ``parent`` with other units; ``changes`` replaces further fields."""
    numbers = {"schema_number": SCHEMA, "version": parent.version + 1, "parent": parent.version}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return parent.model_copy(update={**numbers, "created": created, "why": why, "units": tuple(units), **changes})


def publish_version(storage: Storage, version: DatasetVersion) -> None:
    """Create the version; from this moment its clips exist.

    Raises:
        DatasetError: another writer made this number first; nothing is changed.
    """
    text = version.model_dump_json(by_alias=True, indent=1)
    if not storage.put_if_absent(version_key(version.version), text.encode()):
        raise DatasetError(
            f"version {version.version} of {storage.uri} was published by another ingest meanwhile; run again, "
            "and let one ingest at a time write a dataset"
        )


def bury_version(storage: Storage, version: int, successor: int) -> None:
    """Put a tombstone in the place of a version: what it listed cannot be found through it any more."""
    stone = Tombstone(version=version, successor=successor)
    storage.write(version_key(version), stone.model_dump_json(by_alias=True).encode())


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names: ``{"track": {"margin": 1.3}}`` → ``{"track.margin": 1.3}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flat_settings(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
