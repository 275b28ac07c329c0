from __future__ import annotations

import json

import pytest

from infra.errors import DatasetError
from pipeline.dataset.format import version_key
from pipeline.dataset.versions import (
    bury_version,
    flat_settings,
    latest_version,
    list_versions,
    live_versions,
    load_version,
    publish_version,
)


def test_a_version_comes_back_as_it_was_published(small, builder) -> None:
    """Bug caught: a field lost in JSON (inverse pair)."""
    assert load_version(builder.storage, 1) == small.version == latest_version(builder.storage)
    assert (small.version.counts.videos, small.version.counts.clips, small.version.counts.shards) == (4, 5, 2)
    assert small.version.entry("unit-two").pretrain == {"train": 2, "val": 1}


def test_a_published_version_is_never_replaced(small, builder) -> None:
    """Bug caught: two writers that both believe to have published version 1."""
    other = small.version.model_copy(update={"units": ()})
    with pytest.raises(DatasetError, match="another ingest"):
        publish_version(builder.storage, other)
    assert load_version(builder.storage, 1).units == small.version.units


def test_another_schema_is_refused_in_one_sentence(small, builder) -> None:
    """Bug caught: reading a future format by guessing."""
    tree = json.loads(builder.storage.read(version_key(1)))
    builder.storage.write(version_key(1), json.dumps({**tree, "schema": 99}).encode())
    with pytest.raises(DatasetError, match="schema 99"):
        load_version(builder.storage, 1)
    builder.storage.write(version_key(1), json.dumps({**tree, "schema": 1}).encode())
    with pytest.raises(DatasetError, match=r"schema 1, this code reads 2; ingest its sources anew into another --out"):
        load_version(builder.storage, 1)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schema": 1}'])
def test_a_damaged_version_is_an_error_that_names_it(small, builder, data: bytes) -> None:
    """Bug caught: a half-copied version file ending in a traceback."""
    builder.storage.write(version_key(1), data)
    with pytest.raises(DatasetError, match=r"versions/000001\.json"):
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
    assert json.loads(storage.read(version_key(1))) == {"schema": 2, "version": 1, "removed": True, "successor": 2}
    bury_version(storage, 3, 1)
    with pytest.raises(DatasetError, match="is damaged"):
        load_version(storage, 1)
