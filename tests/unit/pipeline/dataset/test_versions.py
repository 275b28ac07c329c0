from __future__ import annotations

import json

import pytest

from infra.errors import DatasetError
from pipeline.dataset.format import units_key, version_key
from pipeline.dataset.units import Units
from pipeline.dataset.versions import (
    bury_version,
    flat_settings,
    latest_version,
    list_versions,
    live_versions,
    load_version,
    next_version,
    publish_version,
    read_version,
)


def test_a_version_comes_back_as_it_was_published(small, builder) -> None:
    """Bug caught: a field lost in JSON (inverse pair)."""
    assert load_version(builder.storage, 1) == small.version == latest_version(builder.storage)
    assert (small.version.counts.videos, small.version.counts.clips, small.version.counts.shards) == (4, 5, 2)
    assert small.version.entry("unit-two").pretrain == {"train": 2, "val": 1}


def test_a_published_version_is_never_replaced(small, builder) -> None:
    """Bug caught: two writers that both believe to have published version 1."""
    other = small.version.model_copy(update={"units": Units.of(())})
    with pytest.raises(DatasetError, match="another ingest"):
        publish_version(builder.storage, other)
    assert load_version(builder.storage, 1).units == small.version.units


def test_a_version_of_the_older_schema_is_read_and_followed_by_one_of_the_newer(small, builder) -> None:
    """Bug caught: an upgrade after which a dataset's own versions cannot be read, or units lost on the next night."""
    storage, units = builder.storage, list(small.version.units)
    tree = json.loads(storage.read(version_key(1)))
    storage.delete(units_key(tree["units_sha256"]))
    older = {name: value for name, value in tree.items() if name not in ("counts", "units_sha256")}
    (older["source_licence"],) = older.pop("source_licences")
    older |= {"schema": 2, "units": [entry.model_dump() for entry in units]}
    storage.write(version_key(1), json.dumps(older).encode())
    loaded = load_version(storage, 1)
    assert loaded == small.version
    assert read_version(storage, 1).counts == small.version.counts
    publish_version(storage, next_version(loaded, loaded.units, "ingest"))
    assert json.loads(storage.read(version_key(2)))["schema"] == 4
    assert list(load_version(storage, 2).units) == units


def test_a_version_from_before_each_licence_was_kept_has_the_one_it_states(small, builder) -> None:
    """Catches an upgrade after which a dataset cannot be read, or its videos' licence is taken apart into letters."""
    tree = json.loads(builder.storage.read(version_key(1)))
    assert tree.pop("source_licences") == ["test"]
    builder.storage.write(version_key(1), json.dumps({**tree, "schema": 3, "source_licence": "MIT"}).encode())
    assert load_version(builder.storage, 1).source_licences == ("MIT",)
    bare = {**tree, "source_licences": []}
    builder.storage.write(version_key(1), json.dumps(bare).encode())
    with pytest.raises(DatasetError, match="damaged"):
        load_version(builder.storage, 1)


def test_the_table_of_units_is_there_before_the_version_that_names_it(small, builder) -> None:
    """Bug caught: a publish that dies in between and leaves a version without units."""

    class Full(type(builder.storage)):
        def put_if_absent(self, key: str, data: bytes) -> bool:
            raise OSError(f"disk full at {key}")

    entry = builder.unit("three", {"e": [builder.clip("e")]})
    made = next_version(small.version, small.version.units.extended([entry]), "ingest")
    before = set(builder.storage.list("versions/"))
    with pytest.raises(OSError, match="disk full at versions/000002"):
        publish_version(Full(builder.storage.uri), made)
    (table,) = set(builder.storage.list("versions/")) - before
    assert Units.from_bytes(builder.storage.read(table)) == made.units
    assert list_versions(builder.storage) == [1]


@pytest.mark.parametrize("damage", ["absent", "other units", "no table"])
def test_damaged_units_are_an_error_that_names_their_table(small, builder, damage: str) -> None:
    """Bug caught: a table that was swapped or cut short, and pretraining on other shards than the version says."""
    key = units_key(json.loads(builder.storage.read(version_key(1)))["units_sha256"])
    builder.storage.delete(key)
    if damage != "absent":
        builder.storage.write(key, small.version.units[:1].to_bytes() if damage == "other units" else b"PAR1")
    with pytest.raises(DatasetError, match=f"{key}, the units of version 1, is damaged or absent"):
        load_version(builder.storage, 1)
    assert [version.version for version in live_versions(builder.storage)] == [1]  # its totals can still be told


def test_another_schema_is_refused_in_one_sentence(small, builder) -> None:
    """Bug caught: reading a future format by guessing."""
    tree = json.loads(builder.storage.read(version_key(1)))
    builder.storage.write(version_key(1), json.dumps({**tree, "schema": 99}).encode())
    with pytest.raises(DatasetError, match="schema 99"):
        load_version(builder.storage, 1)
    builder.storage.write(version_key(1), json.dumps({**tree, "schema": 1}).encode())
    with pytest.raises(
        DatasetError, match=r"schema 1, this code reads 2 to 4; ingest its sources anew into another --out"
    ):
        load_version(builder.storage, 1)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schema": 1}'])
def test_a_damaged_version_is_an_error_that_names_it(small, builder, data: bytes) -> None:
    """Bug caught: a half-copied version file ending in a traceback."""
    builder.storage.write(version_key(1), data)
    with pytest.raises(DatasetError, match=r"versions/000001\.json"):
        load_version(builder.storage, 1)


@pytest.mark.parametrize(
    "units", [None, 5, [{"frames": 1 << 70}], [{"manifest_sha256": "ab"}], [{"pretrain": {"dev": 1}}]]
)
def test_damaged_units_of_the_older_schema_are_an_error_that_names_the_version(small, builder, units) -> None:
    """Bug caught: a damaged list of units ending in a traceback."""
    facts = small.version.model_dump(exclude={"units"})
    entry = small.version.units[0].model_dump()
    listed = [entry | changes for changes in units] if isinstance(units, list) else units
    builder.storage.write(version_key(1), json.dumps({"schema": 2, **facts, "units": listed}).encode())
    with pytest.raises(DatasetError, match=r"versions/000001\.json is damaged"):
        load_version(builder.storage, 1)


def test_a_renamed_version_and_an_absent_one_are_refused(small, builder) -> None:
    """Bug caught: a copy of version 1 posing as version 2; absent versions without the list of those that exist."""
    builder.storage.write(version_key(2), builder.storage.read(version_key(1)))
    with pytest.raises(DatasetError, match="calls itself version 1"):
        load_version(builder.storage, 2)
    with pytest.raises(DatasetError, match="there: 1, 2"):
        load_version(builder.storage, 7)


def test_only_version_files_count_as_versions(small, builder) -> None:
    """Bug caught: an editor's backup file taken for the newest version."""
    builder.storage.write("versions/000009.json~", b"backup")
    builder.storage.write("versions/latest.json", b"{}")
    assert list_versions(builder.storage) == [1]


def test_nested_settings_become_dotted_names() -> None:
    """Bug caught: a difference between recipes that cannot be named."""
    assert flat_settings({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_a_removed_version_names_the_one_that_can_be_read_in_its_place(small, builder) -> None:
    """Bug caught: a tombstone that leads to a tombstone; one that leads back and never ends; a version lost with it."""
    storage = builder.storage
    builder.publish(builder.unit("three", {}))
    builder.publish(builder.unit("four", {}))
    bury_version(storage, 1, 2)
    bury_version(storage, 2, 3)
    with pytest.raises(DatasetError, match=r"version 1 of .* was removed; version 3 takes its place"):
        load_version(storage, 1)
    assert [version.version for version in live_versions(storage)] == [3]
    assert list_versions(storage) == [1, 2, 3]
    assert json.loads(storage.read(version_key(1))) == {"schema": 4, "version": 1, "removed": True, "successor": 2}
    bury_version(storage, 3, 1)
    with pytest.raises(DatasetError, match="is damaged"):
        load_version(storage, 1)


def test_a_tombstone_that_names_itself_is_damage(small, builder) -> None:
    """Bug caught: a reader that follows it for ever."""
    bury_version(builder.storage, 1, 1)
    with pytest.raises(DatasetError, match="names version 1 as its successor; it is damaged"):
        read_version(builder.storage, 1)
