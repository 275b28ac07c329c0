"""One conformance test for both stores: a folder, and S3 over real HTTP."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from infra.errors import ConfigError, StorageError
from infra.storage import Storage, open_storage


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(str(tmp_path / "store"))
    return open_storage(f"s3://{request.getfixturevalue('bucket')}/some/prefix")


def test_what_is_written_is_read_whole_and_by_range(store: Storage) -> None:
    store.write("a/b.bin", b"0123456789")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read_range("a/b.bin", 3, 4) == b"3456"
    assert store.size("a/b.bin") == 10
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"


def test_a_range_past_the_end_is_an_error_and_not_fewer_bytes(store: Storage) -> None:
    store.write("a", b"012")
    with pytest.raises(StorageError):
        store.read_range("a", 1, 5)


def test_only_the_first_put_if_absent_wins(store: Storage) -> None:
    assert store.put_if_absent("v/1", b"first")
    assert not store.put_if_absent("v/1", b"second")
    assert store.read("v/1") == b"first"


def test_listing_is_sorted_by_prefix_and_deleting_twice_is_no_error(store: Storage) -> None:
    for key in ("x/2", "x/1", "xy", "z"):
        store.write(key, b"")
    assert list(store.list("x/")) == ["x/1", "x/2"]
    assert list(store.list("x")) == ["x/1", "x/2", "xy"]
    store.delete("xy")
    store.delete("xy")
    assert not store.exists("xy")
    assert list(store.list()) == ["x/1", "x/2", "z"]


def test_files_go_up_and_come_down(store: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    store.upload(source, "deep/key")
    store.download("deep/key", target)
    assert target.read_bytes() == b"bytes"


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a/../../b", "", "a\\b"])
def test_a_key_that_leaves_the_store_is_refused(store: Storage, key: str) -> None:
    with pytest.raises(StorageError):
        store.write(key, b"")


def test_a_missing_key_is_a_storage_error_that_names_it(store: Storage) -> None:
    with pytest.raises(StorageError, match="absent"):
        store.read("absent")


def test_a_store_travels_to_workers(store: Storage) -> None:
    store.write("k", b"v")
    assert pickle.loads(pickle.dumps(store)).read("k") == b"v"


def test_an_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="s3://"):
        open_storage("ftp://host/x")
