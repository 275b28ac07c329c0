from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CorruptShardError, DatasetError
from infra.storage import Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.compact import compact_dataset, plan_compaction
from pipeline.dataset.format import shard_key
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.show import summary, video_rows
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.vacuum import vacuum_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import _finish_old_plan
from pipeline.ingest_metrics import IngestMetrics
from pipeline.plan import Plan, Unit, read_plan, write_plan
from pipeline.rows import SourceVideo
from tests.support.killing import compact, contents, copy_store, killed_at

MB = 1_000_000


def _entry(number: int, size: int) -> ShardEntry:
    return ShardEntry(unit=f"u{number}", tar_sha256="0" * 64, tar_bytes=size, manifest_sha256="", videos_sha256="",
                      clips=size, frames=size, videos=1)  # fmt: skip


def clips_of(reader: DatasetReader) -> dict[str, Any]:
    """Key → (bytes, regions, metadata, labels) of every clip."""
    found = {}
    for entry in reader.shards:
        for row, listed in enumerate(reader.manifest(entry.unit).to_pylist()):
            clip = reader.read_clip(entry.unit, row)
            found[clip.key] = (clip.mp4, clip.regions.tobytes(), clip.meta, listed["labels"], listed["frames"])
    return found


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([10], []),
        ([10, 20, 30], [[0, 1, 2]]),
        ([90, 10, 95, 20], [[1, 3]]),  # the small last shards of two nights
        ([40, 40, 40, 40], [[0, 1], [2, 3]]),
        ([50, 50], []),  # half of the target is enough
        ([0, 0, 99], [[0, 1]]),
        ([49, 49, 3], [[0, 1]]),
    ],
)
def test_small_shards_are_grouped_up_to_the_target_and_large_ones_stay(sizes, groups) -> None:
    """Bug caught: shards above the target; a shard that is merged anew every night; a group of one."""
    units = [_entry(number, size) for number, size in enumerate(sizes)]
    assert [[int(entry.unit[1:]) for entry in group] for group in plan_compaction(units, 100)] == groups


@pytest.mark.parametrize("target", [64, 100, 1000])
def test_planning_again_after_merging_changes_nothing(target: int) -> None:
    """Bug caught: nightly compaction that rewrites the same bytes for ever."""
    units = [_entry(number, size) for number, size in enumerate([1, 2, 60, 3, 50, 31, 32, 33, 7, 0, 31, 64, 99])]
    groups = plan_compaction(units, target)
    merged = {group[-1].unit: sum(entry.tar_bytes for entry in group) for group in groups}
    gone = {entry.unit for group in groups for entry in group} - set(merged)
    after = [_entry(n, merged.get(e.unit, e.tar_bytes)) for n, e in enumerate(units) if e.unit not in gone]
    assert groups
    assert all(size <= target for size in merged.values())
    assert plan_compaction(after, target) == []


def test_the_same_clips_in_fewer_shards_and_the_old_version_still_reads(small, builder) -> None:
    """Bug caught: a clip lost, changed or doubled; rejects forgotten; an old version that changes."""
    before, funnel = clips_of(small), summary(small)
    done = compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    assert (done.version, done.new, done.before, done.after) == (2, True, 2, 1)
    newest = open_dataset(builder.storage.uri)
    assert verify_dataset(newest) == []
    assert clips_of(newest) == before == clips_of(open_dataset(builder.storage.uri, 1))
    assert summary(newest) == funnel | {"version": 2, "shards": 1}
    assert newest.version.why == "compact"
    assert newest.version.entry(newest.shards[0].unit).pretrain == {"train": 3, "val": 1}
    keys = newest.manifest(newest.shards[0].unit)["key"].to_pylist()
    assert keys == sorted(keys)
    assert list(builder.storage.list("units/")) == []
    assert {path.name for path in builder.scratch.iterdir()} == {"clips.tar", "regions.tar"}  # the builder's own
    again = compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    assert (again.version, again.new) == (2, False)


def test_after_merging_the_latest_outcome_of_a_video_still_counts(builder) -> None:
    """Bug caught: a reject that was tried again with success comes back as the video's outcome once merged."""
    builder.publish(builder.unit("one", {"b": [], "a": [builder.clip("a")]}))
    builder.publish(builder.unit("two", {"b": [builder.clip("b")]}))
    builder.publish(builder.unit("three", {"c": []}))
    compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    reader = open_dataset(builder.storage.uri)
    assert [(row["name"], row["reject"]) for row in video_rows(reader)] == [
        ("a.mp4", None), ("b.mp4", None), ("c.mp4", "no_face"),
    ]  # fmt: skip
    assert reader.version.counts.videos == 3
    assert verify_dataset(reader) == []


def test_more_shards_than_a_process_may_open_are_merged_into_one(builder) -> None:
    """Catches every shard of a group held open: nights of a few clips each could never be compacted."""
    count = 150
    names = [f"v{number}" for number in range(count)]
    builder.publish(*(builder.unit(f"unit-{name}", {name: [builder.clip(name, frames=4)]}) for name in names))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        done = compact_dataset(builder.storage, builder.scratch, shard_bytes=250 * MB)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (done.before, done.after) == (count, 1)
    assert verify_dataset(open_dataset(builder.storage.uri)) == []
    assert not [path for path in builder.scratch.iterdir() if path.name.startswith("from-")]


def test_a_damaged_shard_stops_it_and_no_version_is_made(small, builder) -> None:
    """Bug caught: damage carried into a new shard, whose fresh checksum then vouches for it."""
    data = bytearray(builder.storage.read(shard_key("unit-two")))
    data[data.index(b"mp4 of")] ^= 1
    builder.storage.write(shard_key("unit-two"), bytes(data))
    with pytest.raises(CorruptShardError, match="unit-two"):
        compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    assert open_dataset(builder.storage.uri).version.version == 1


def test_it_works_in_a_bucket(small, builder, s3_uri) -> None:
    """Bug caught: a path where a key is needed; a call that only folders have."""
    store = copy_store(builder.storage, s3_uri)
    assert compact_dataset(store, builder.scratch, shard_bytes=MB).after == 1
    assert clips_of(open_dataset(s3_uri)) == clips_of(small)
    swept = vacuum_dataset(store, grace_s=0, keep=1)
    assert swept.dropped == (1,)
    assert {"shards/unit-one.tar", "videos/unit-two.parquet"} < set(swept.keys)
    assert clips_of(open_dataset(s3_uri)) == clips_of(small)
    with pytest.raises(DatasetError, match="version 2 takes its place"):
        open_dataset(s3_uri, 1)


def test_the_plan_of_a_version_that_was_published_costs_no_version_its_shards(small, builder) -> None:
    """Bug caught: an ingest killed after it published; once its shards are merged, the next one deletes them.

    The version that lists them could no longer be read, and no video be taken out of the dataset.
    """
    store = builder.storage
    newest = open_dataset(store.uri).version
    units = tuple(Unit(id=unit, videos=()) for unit in newest.units.column("unit"))
    write_plan(store, Plan(version=newest.version, recipe_digest="ab", units=units))
    compact_dataset(store, builder.scratch, shard_bytes=1_000_000)
    latest = open_dataset(store.uri).version
    assert latest.version > newest.version
    cfg = IngestConfig(sources=("s",), out=store.uri)
    assert list(_finish_old_plan(store, cfg, latest, "ab", None, IngestMetrics())) == []
    assert read_plan(store) is None
    assert verify_dataset(open_dataset(store.uri, newest.version)) == []


def test_it_waits_for_an_unfinished_ingest_and_for_another_writer(small, builder) -> None:
    """Bug caught: a version made between an ingest's plan and its end, which throws the night's work away."""
    with writer_lock(builder.storage), pytest.raises(DatasetError, match="another ingest"):
        compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    video = SourceVideo("1" * 64, "/x.mp4", "x.mp4", 1)
    write_plan(builder.storage, Plan(version=2, recipe_digest="ab", units=(Unit(id="u", videos=(video,)),)))
    with pytest.raises(DatasetError, match="unfinished; run it again to its end"):
        compact_dataset(builder.storage, builder.scratch, shard_bytes=MB)
    with pytest.raises(DatasetError, match="no dataset version"):
        compact_dataset(open_storage(str(builder.folder / "empty")), builder.scratch, shard_bytes=MB)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path: Path) -> str:
    if request.param == "s3":
        return request.getfixturevalue("s3_uri")
    return str(tmp_path / "copy")


def test_killed_before_any_write_and_run_again_it_ends_in_the_same_store(small, builder, place, tmp_path) -> None:
    """Bug caught: a version that lists what is not there, a marker that outlives its shard, leftovers, other bytes."""
    before = clips_of(small)
    wanted = copy_store(builder.storage, place)
    compact_dataset(wanted, builder.scratch, shard_bytes=MB)
    expected = contents(wanted)
    writes = 0
    while True:
        writes += 1
        store = copy_store(builder.storage, place)
        killed = killed_at(compact, place, writes, tmp_path / "scratch", shard_bytes=MB)
        reader = open_dataset(place)
        assert clips_of(reader) == before, f"a reader after write {writes}"
        compact_dataset(store, builder.scratch, shard_bytes=MB)
        assert contents(store) == expected, f"after write {writes}"
        if not killed:
            break
    assert writes > 6


def test_what_a_killed_compaction_left_never_counts_once_it_was_swept(small, builder, tmp_path) -> None:
    """Bug caught: a done marker that survives its shard, so that the next compaction lists a shard that is gone."""
    store, place = builder.storage, builder.storage.uri
    for key in [*store.list("units/"), *store.list("work/")]:
        store.delete(key)
    assert killed_at(compact, place, 5, tmp_path / "scratch", shard_bytes=MB)
    assert len(list(store.list("units/"))) == 1  # shard, tables and marker are there, the version is not
    assert len(list(store.list("shards/"))) == 3
    _age(store, "shards/", "manifests/", "videos/")  # the marker alone is young
    assert vacuum_dataset(store, grace_s=3600).keys == ()
    _age(store, "units/")
    assert len(vacuum_dataset(store, grace_s=3600).keys) == 4
    compact_dataset(store, builder.scratch, shard_bytes=MB)
    assert verify_dataset(open_dataset(place)) == []


def _age(storage: Storage, *prefixes: str) -> None:
    for prefix in prefixes:
        for key in storage.list(prefix):
            os.utime(Path(storage.uri) / key, (1, 1))
