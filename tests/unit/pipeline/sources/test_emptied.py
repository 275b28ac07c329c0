"""A source that lists nothing all of a sudden."""

from __future__ import annotations

import logging

import pytest

from infra.errors import ConfigError
from infra.storage import open_storage
from pipeline.sources.emptied import SOURCES_KEY, check_emptied, remember_sources
from pipeline.sources.seen import forget


def test_a_source_that_listed_videos_once_may_not_list_none_unless_it_is_allowed_to(tmp_path, caplog) -> None:
    """Catches a share that is not mounted and passes for a night without new videos."""
    storage = open_storage(str(tmp_path / "d"))
    counts = {"/nfs/videos": 3, "s3://b/p": 0}
    with caplog.at_level(logging.WARNING):
        check_emptied(storage, counts, allow=False)
    assert [record.getMessage() for record in caplog.records] == ["source s3://b/p lists no video"]
    remember_sources(storage, counts)
    emptied = {"/nfs//videos/": 0, "s3://b/p": 1}
    with pytest.raises(ConfigError, match=r"source /nfs//videos/ lists no video any more; .*allow_empty_sources=true"):
        check_emptied(storage, emptied, allow=False)
    caplog.clear()
    check_emptied(storage, emptied, allow=True)
    assert "lists no video" in caplog.text
    remember_sources(storage, emptied)
    for source in ("/nfs/videos", "s3://b/p"):
        with pytest.raises(ConfigError):
            check_emptied(storage, {source: 0}, allow=False)


def test_what_is_remembered_is_written_once_names_nobody_and_survives_a_takedown(tmp_path) -> None:
    """Catches an object that each night writes anew, or a person's name kept in a cache."""
    storage = open_storage(str(tmp_path / "d"))
    remember_sources(storage, {"/data/anna.mp4": 1, "/data/empty": 0})
    written = storage.modified(SOURCES_KEY)
    remember_sources(storage, {"/data/anna.mp4": 2})
    assert storage.modified(SOURCES_KEY) == written
    assert b"anna" not in storage.read(SOURCES_KEY)
    forget(storage, {"a" * 64})
    with pytest.raises(ConfigError):
        check_emptied(storage, {"/data/anna.mp4": 0}, allow=False)
