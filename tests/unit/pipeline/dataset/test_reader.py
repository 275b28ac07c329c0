from __future__ import annotations

import pickle

import numpy as np
import pytest
import webdataset as wds

from infra.errors import CorruptShardError, DatasetError
from infra.storage import LocalStorage
from pipeline.dataset.format import manifest_key, shard_key
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.verify import verify_dataset


def test_every_clip_comes_back_byte_for_byte_by_its_row(builder, small) -> None:
    """Bug caught: offsets of another row; regions of another clip."""
    for entry in small.shards:
        for row, listed in enumerate(small.manifest(entry.unit).to_pylist()):
            clip = small.read_clip(entry.unit, row)
            wanted = builder.clip(listed["name"].removesuffix(".mp4"), listed["track"], listed["start_frame"],
                                  listed["frames"], listed["split"])  # fmt: skip
            assert (clip.key, clip.mp4, clip.meta) == (listed["key"], wanted.mp4, wanted.meta)
            assert np.array_equal(clip.regions, builder.regions(wanted))


def test_a_clip_costs_one_range_read(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: reading whole shards, or the manifest anew for each clip."""
    reads = []
    original = LocalStorage.read_range
    small.manifest("unit-one")
    monkeypatch.setattr(LocalStorage, "read_range", lambda *args: reads.append(args[1:]) or original(*args))
    monkeypatch.setattr(LocalStorage, "read", lambda *args: pytest.fail("the manifest was read again"))
    small.read_clip("unit-one", 0)
    small.read_clip("unit-one", 1)
    assert [key for key, _, _ in reads] == [shard_key("unit-one")] * 2


def test_a_shard_that_no_version_lists_is_never_read(builder, small) -> None:
    """Bug caught: a reader that lists the shards folder and picks up an unfinished or removed unit."""
    builder.unit("unit-three", {"e": [builder.clip("e")]})  # shard, tables and done marker are there; no version is
    assert builder.storage.exists(shard_key("unit-three"))
    reader = open_dataset(builder.storage.uri)
    assert [entry.unit for entry in reader.shards] == ["unit-one", "unit-two"]
    for ask in (reader.manifest, reader.videos, lambda unit: reader.read_clip(unit, 0)):
        with pytest.raises(DatasetError, match="lists no unit"):
            ask("unit-three")


def test_an_older_version_stays_readable_as_it_was(builder, small) -> None:
    """Bug caught: a pinned version that follows the newest one."""
    builder.publish(builder.unit("unit-three", {"e": [builder.clip("e")]}))
    assert open_dataset(builder.storage.uri).version.counts.clips == 6
    assert open_dataset(builder.storage.uri, 1).version.counts.clips == 5


def test_a_changed_manifest_is_refused(builder, small) -> None:
    """Bug caught: training on other clips than the version promises."""
    key = manifest_key("unit-one")
    builder.storage.write(key, builder.storage.read(manifest_key("unit-two")))
    with pytest.raises(CorruptShardError, match="sha256"):
        small.manifest("unit-one")


def test_damaged_shards_are_errors_that_name_shard_and_clip(builder, small) -> None:
    """Bug caught: a short or shifted read taken for a clip."""
    key = shard_key("unit-one")
    whole = builder.storage.read(key)
    builder.storage.write(key, whole[:900])
    with pytest.raises(CorruptShardError, match=r"unit-one\.tar, clip"):
        small.read_clip("unit-one", 1)
    builder.storage.write(key, bytes(512) + whole)
    with pytest.raises(CorruptShardError, match=r"unit-one\.tar, clip"):
        small.read_clip("unit-one", 0)
    builder.storage.delete(key)
    with pytest.raises(CorruptShardError, match=r"unit-one\.tar, clip"):
        small.read_clip("unit-one", 0)


def test_a_row_that_does_not_exist_is_an_error(small) -> None:
    """Bug caught: row -1, which numpy would serve."""
    for row in (-1, 2):
        with pytest.raises(DatasetError, match="no row"):
            small.read_clip("unit-one", row)


def test_a_reader_pickles_without_its_cache(small) -> None:
    """Bug caught: manifests copied to every loader worker."""
    small.manifest("unit-one")
    copy: DatasetReader = pickle.loads(pickle.dumps(small))
    assert not copy._manifests
    assert copy.read_clip("unit-two", 2).key == small.read_clip("unit-two", 2).key


def test_a_folder_without_a_dataset_says_how_to_make_one(tmp_path) -> None:
    """Bug caught: a traceback for a mistyped path."""
    with pytest.raises(DatasetError, match="marlin ingest"):
        open_dataset(str(tmp_path / "nowhere"))


def test_audio_travels_with_the_clips_that_have_it(builder) -> None:
    """Bug caught: sound dropped at merging; a byte range that begins behind the sound; one clip's sound at another."""
    silent, loud = builder.clip("a"), builder.clip("a", start=64, audio=True)
    reader = builder.publish(builder.unit("u", {"a": [silent, loud]}))
    assert verify_dataset(reader) == []
    assert reader.manifest("u")["audio"].to_pylist() == [False, True]
    assert [reader.read_clip("u", row).audio for row in range(2)] == [None, loud.flac]
    path = builder.folder / "dataset" / shard_key("u")
    samples = list(wds.WebDataset(str(path), shardshuffle=False, nodesplitter=wds.single_node_only))
    assert [sample.get("flac") for sample in samples] == [None, loud.flac]
