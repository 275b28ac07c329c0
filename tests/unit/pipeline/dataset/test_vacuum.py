from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.errors import ConfigError, DatasetError
from infra.storage import Storage, open_storage
from pipeline.dataset.compact import compact_dataset
from pipeline.dataset.format import units_key
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.units import units_digest
from pipeline.dataset.vacuum import vacuum_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import list_versions
from pipeline.plan import Plan, Unit, write_plan
from pipeline.rows import SourceVideo
from tests.support.killing import contents, copy_store, killed_at, vacuum

DAY = 24 * 3600.0


def age(storage: Storage, days: float = 2) -> None:
    """Make every object look written some days ago."""
    for key in storage.list():
        path = Path(storage.uri) / key
        then = path.stat().st_mtime - days * DAY
        os.utime(path, (then, then))


@pytest.fixture
def three(small, builder) -> Storage:
    """Versions 1 and 2 with small shards, 3 with one; two units that no version lists; all two days old."""
    builder.publish(builder.unit("unit-three", {"e": [builder.clip("e")]}))
    compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000)
    builder.unit("orphan", {"f": [builder.clip("f")]})
    age(builder.storage)
    return builder.storage


def test_what_no_version_lists_goes_and_what_any_version_lists_stays(three: Storage) -> None:
    """Bug caught: the shard of an older version deleted; leftovers of a dead writer that stay for ever."""
    size = sum(three.size(key) for key in three.list() if key.startswith(("work/", "units/")) or "orphan" in key)
    told = vacuum_dataset(three, dry_run=True)
    assert contents(three).keys() > set(told.keys)  # a dry run deletes nothing
    done = vacuum_dataset(three)
    assert done == told
    assert done.bytes == size
    assert {"shards/orphan.tar", "manifests/orphan.parquet", "videos/orphan.parquet"} < set(done.keys)
    assert not list(three.list("work/"))
    for version in (1, 2, 3):
        assert verify_dataset(open_dataset(three.uri, version)) == []
    assert vacuum_dataset(three).keys == ()


def test_a_folder_that_is_no_dataset_and_files_of_others_are_left_alone(three: Storage, tmp_path: Path) -> None:
    """Bug caught: a mistyped path, and somebody's own shards are gone; a note beside our shards swept away."""
    other = open_storage(str(tmp_path / "other"))
    other.write("shards/train-000.tar", b"somebody's own")
    age(other)
    with pytest.raises(DatasetError, match="no dataset version"):
        vacuum_dataset(other)
    assert list(other.list()) == ["shards/train-000.tar"]
    three.write("shards/readme.txt", b"a note")
    age(three)
    vacuum_dataset(three)
    assert three.exists("shards/readme.txt")


def test_young_leftovers_stay(three: Storage, builder) -> None:
    """Bug caught: the shard that another writer of the bucket is about to list is swept under its feet."""
    vacuum_dataset(three)
    builder.unit("young", {"g": [builder.clip("g")]})
    assert vacuum_dataset(three).keys == ()
    assert "shards/young.tar" in vacuum_dataset(three, grace_s=0.0).keys


def test_the_units_of_a_publish_that_died_go_after_the_same_time_and_those_in_use_stay(three: Storage) -> None:
    """Bug caught: tables of units that pile up for ever, or that of a version that is being published deleted."""
    one, two = (open_dataset(three.uri, number).version for number in (1, 2))
    tables = set(three.list("versions/")) - {f"versions/00000{number}.json" for number in (1, 2, 3)}
    assert len(tables) == 3
    newest = open_dataset(three.uri).version
    died = two.units[1:].to_bytes()
    orphan = units_key(units_digest(died))
    three.write(orphan, died)
    assert orphan not in vacuum_dataset(three).keys
    age(three)
    assert orphan in vacuum_dataset(three).keys
    assert set(three.list("versions/")) > tables
    vacuum_dataset(three, keep=1)
    assert {key for key in three.list("versions/") if key.endswith(".parquet")} == tables - {
        units_key(units_digest(version.units.to_bytes())) for version in (one, two)
    }
    assert open_dataset(three.uri).version == newest


def test_staged_bytes_stay_together_while_one_of_them_is_young(three: Storage) -> None:
    """Catches a staging of more than a day that loses its first videos: it has no plan before its end."""
    three.write("staged/first", b"bytes")
    age(three)
    three.write("staged/last", b"bytes")
    assert not [key for key in vacuum_dataset(three).keys if key.startswith("staged/")]
    age(three)
    assert {"staged/first", "staged/last"} <= set(vacuum_dataset(three).keys)


def test_what_a_plan_in_progress_needs_stays_however_old(three: Storage) -> None:
    """Bug caught: a week-long ingest, or one that died long ago, that loses its finished videos."""
    video = SourceVideo("f" * 64, "staged:staged/ff", "f.mp4", 1)
    write_plan(three, Plan(version=4, recipe_digest="ab", units=(Unit(id="orphan", videos=(video,)),)))
    for key in ("staged/ff", "staged/other"):
        three.write(key, b"bytes")
    age(three)
    done = vacuum_dataset(three)
    assert "staged/other" in done.keys
    assert not [key for key in done.keys if "orphan" in key]
    for key in ("shards/orphan.tar", "units/orphan.done", "staged/ff", "plan.json"):
        assert three.exists(key), key


def test_keep_drops_older_versions_and_each_names_the_oldest_that_stays(three: Storage) -> None:
    """Bug caught: a dropped version that fails on a missing shard instead of one sentence; numbers used twice."""
    assert vacuum_dataset(three, keep=3).dropped == ()
    done = vacuum_dataset(three, keep=1)
    assert done.dropped == (1, 2)
    assert "shards/unit-one.tar" in done.keys
    for version in (1, 2):
        with pytest.raises(DatasetError, match=f"version {version} of .* was removed; version 3 takes its place"):
            open_dataset(three.uri, version)
    assert list_versions(three) == [1, 2, 3]
    assert verify_dataset(open_dataset(three.uri)) == []
    with pytest.raises(ConfigError, match="keep at least 1"):
        vacuum_dataset(three, keep=0)


def test_a_dry_run_tells_what_dropping_versions_would_free(three: Storage) -> None:
    """Bug caught: a dry run that counts the dropped versions' shards as still listed, or writes the tombstones."""
    told = vacuum_dataset(three, keep=1, dry_run=True)
    assert open_dataset(three.uri, 1).version.version == 1
    assert vacuum_dataset(three, keep=1) == told


def test_killed_before_any_write_and_run_again_it_ends_in_the_same_store(three: Storage, tmp_path: Path) -> None:
    """Bug caught: a listed shard deleted on the way; a table of videos gone before the shard it speaks of."""
    place = str(tmp_path / "copy")
    wanted = copy_store(three, place)
    vacuum_dataset(wanted, keep=1, grace_s=0.0)
    expected = contents(wanted)
    writes, killed = 0, True
    while killed:
        writes += 1
        store = copy_store(three, place)
        killed = killed_at(vacuum, place, writes, tmp_path / "scratch", keep=1, grace_s=0.0)
        assert verify_dataset(open_dataset(place)) == []
        vacuum_dataset(store, keep=1, grace_s=0.0)
        assert contents(store) == expected, f"after write {writes}"
    assert writes > 10
