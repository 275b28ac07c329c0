from __future__ import annotations

import json

import pytest

from infra.errors import DatasetError
from pipeline.dataset.format import version_key
from pipeline.dataset.versions import flat_settings, latest_version, list_versions, load_version, publish_version


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
