from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from infra.errors import CorruptShardError, DatasetError, StorageError
from infra.storage import LocalStorage, open_storage
from pipeline.dataset.format import (
    MANIFEST_COLUMNS,
    VIDEO_COLUMNS,
    done_key,
    manifest_key,
    shard_key,
    videos_key,
    work_key,
)
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.work import read_outcome, write_outcome
from pipeline.dataset.writer import read_done, write_unit
from pipeline.rows import RejectReason


def test_a_shard_is_read_by_the_plain_webdataset_library(builder) -> None:
    """Bug caught: members unsorted or keys with dots, at which webdataset silently splits samples."""
    clips = [builder.clip("a", start=64), builder.clip("a"), builder.clip("a", track=1)]
    builder.unit("u", {"a": clips, "b": [builder.clip("b")]})
    path = builder.folder / "dataset" / shard_key("u")
    samples = list(
        wds.WebDataset(str(path), shardshuffle=False, nodesplitter=wds.single_node_only).decode(only="regions.npy.gz")
    )
    assert [sample["__key__"] for sample in samples] == sorted(clip.meta.key for clip in [*clips, builder.clip("b")])
    assert all({"json", "mp4"} <= sample.keys() for sample in samples)
    maps = {sample["__key__"]: sample["regions.npy.gz"] for sample in samples}
    assert all(np.array_equal(maps[clip.meta.key], builder.regions(clip)) for clip in clips)


def test_writing_a_unit_twice_in_any_order_gives_the_same_bytes(builder, tmp_path) -> None:
    """Bug caught: bytes that depend on which video came first, on the clock, or on the folder."""
    clips = {"a": [builder.clip("a", start=64), builder.clip("a")], "b": [builder.clip("b")]}
    first = builder.unit("u", clips)
    stored = {key: builder.storage.read(key) for key in (shard_key("u"), manifest_key("u"), videos_key("u"))}
    for key in (*stored, done_key("u")):
        builder.storage.delete(key)
    (tmp_path / "elsewhere").mkdir()
    second = write_unit(builder.storage, "u", [builder.digest("b"), builder.digest("a")], tmp_path / "elsewhere")
    assert second == first == read_done(builder.storage, "u")
    assert stored == {key: builder.storage.read(key) for key in stored}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def _of_another_build(data: bytes) -> bytes:
    """The same table as other code writes it."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(data)), buffer, compression="none")
    return buffer.getvalue().to_pybytes()


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_slower_of_two_ingests_leaves_what_the_faster_has_published(builder, request, place, tmp_path) -> None:
    """Catches a table overwritten with other wall seconds, or by other code: its version could not be read again."""
    builder.storage = open_storage(request.getfixturevalue("s3_uri") if place == "s3" else str(tmp_path / "d"))
    storage = builder.storage
    digest = builder.finish("u", "a", [builder.clip("a")])
    reject = builder.finish("u", "b", [], RejectReason.INTERNAL)
    storage.write(manifest_key("u"), b"")  # what a writer left that died
    first = write_unit(storage, "u", [digest, reject], builder.scratch)
    builder.publish(first)
    for video, detail in ((digest, None), (reject, "OSError: /tmp/other")):
        outcome = read_outcome(storage, "u", video)
        write_outcome(storage, "u", replace(outcome, seconds={"decode": 0.7}, detail=detail))
    assert write_unit(storage, "u", [digest, reject], builder.scratch) == first == read_done(storage, "u")
    assert verify_dataset(open_dataset(storage.uri)) == []


def test_a_table_that_other_code_has_written_is_the_one_that_counts(builder) -> None:
    """Catches tables compared as bytes: after an update of the libraries, the slower ingest would overwrite them."""
    digest = builder.finish("u", "a", [builder.clip("a")])
    write_unit(builder.storage, "u", [digest], builder.scratch)
    others = {key: _of_another_build(builder.storage.read(key)) for key in (manifest_key("u"), videos_key("u"))}
    for key, data in others.items():
        assert data != builder.storage.read(key)
        builder.storage.write(key, data)
    builder.publish(write_unit(builder.storage, "u", [digest], builder.scratch))
    assert verify_dataset(open_dataset(builder.storage.uri)) == []
    assert others == {key: builder.storage.read(key) for key in others}


@pytest.mark.parametrize("is_listed", [True, False])
def test_other_results_replace_what_nobody_lists_and_never_what_a_version_lists(builder, is_listed) -> None:
    """Catches a published shard overwritten with other crops; a dead writer's table that vouches for a new shard."""
    digest = builder.finish("u", "a", [builder.clip("a")])
    first = write_unit(builder.storage, "u", [digest], builder.scratch)
    if is_listed:
        builder.publish(first)
    builder.finish("u", "a", [builder.clip("a"), builder.clip("a", start=64)])
    if is_listed:
        with pytest.raises(DatasetError, match=r"another ingest has published unit u .* run again"):
            write_unit(builder.storage, "u", [digest], builder.scratch)
    else:
        builder.publish(write_unit(builder.storage, "u", [digest], builder.scratch))
    reader = open_dataset(builder.storage.uri)
    assert verify_dataset(reader) == []
    assert reader.version.counts.clips == (1 if is_listed else 2)


def test_the_tables_have_the_columns_of_the_contract_and_say_what_happened(builder) -> None:
    """Bug caught: a column renamed or retyped, a reject without its reason, short clips offered to pretraining."""
    entry = builder.unit("u", {"a": [builder.clip("a"), builder.clip("a", start=64, frames=20)], "b": []})
    manifest = pq.read_table(builder.folder / "dataset" / manifest_key("u"))
    videos = pq.read_table(builder.folder / "dataset" / videos_key("u"))
    assert manifest.schema.names == MANIFEST_COLUMNS.names
    assert manifest.schema.types == MANIFEST_COLUMNS.types
    assert videos.schema.names == VIDEO_COLUMNS.names
    assert videos.schema.types == VIDEO_COLUMNS.types
    assert manifest["pretrain"].to_pylist() == [True, False]
    assert manifest.schema.metadata[b"tar_sha256"].decode() == entry.tar_sha256
    rows = {row["name"]: row for row in videos.to_pylist()}
    assert (rows["a.mp4"]["reject"], rows["b.mp4"]["reject"]) == (None, "no_face")
    assert json.loads(rows["a.mp4"]["filtered"]) == {"blurred": 1, "too_short": 1}
    assert (entry.clips, entry.frames, entry.videos, entry.pretrain) == (2, 84, 2, {"train": 1})


def test_a_unit_of_rejects_has_tables_and_no_tar(builder) -> None:
    """Bug caught: an empty tar, over which webdataset stumbles, or a ledger that forgets the rejects."""
    entry = builder.unit("u", {"a": [], "b": []})
    assert (entry.clips, entry.tar_bytes, entry.tar_sha256, entry.videos) == (0, 0, None, 2)
    assert not builder.storage.exists(shard_key("u"))
    assert pq.read_table(builder.folder / "dataset" / manifest_key("u")).num_rows == 0


def test_a_clip_under_another_videos_name_is_refused(builder) -> None:
    """Bug caught: results mixed up between videos, which would carry one person's labels to another."""
    digest = builder.finish("u", "a", [builder.clip("b")])
    with pytest.raises(CorruptShardError, match="filed"):
        write_unit(builder.storage, "u", [digest], builder.scratch)
    assert read_done(builder.storage, "u") is None


def test_a_damaged_result_ends_in_an_error_and_in_no_shard(builder) -> None:
    """Bug caught: a half-written work file published as a shard."""
    digest = builder.finish("u", "a", [builder.clip("a")])
    key = work_key("u", digest, "clips.tar")
    builder.storage.write(key, builder.storage.read(key)[:700])
    with pytest.raises(CorruptShardError):
        write_unit(builder.storage, "u", [digest], builder.scratch)
    assert list(builder.storage.list("shards/")) == []
    assert read_done(builder.storage, "u") is None


def test_a_store_that_refuses_leaves_no_done_marker(builder) -> None:
    """Bug caught: the marker written before what it vouches for (disk full between the two)."""
    digest = builder.finish("u", "a", [builder.clip("a")], None)
    blocked = builder.folder / "dataset" / "manifests"
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.write_bytes(b"a file where a folder is needed: every write below it fails")
    with pytest.raises(StorageError, match="manifests"):
        write_unit(open_storage(builder.storage.uri), "u", [digest], builder.scratch)
    assert read_done(builder.storage, "u") is None
    blocked.unlink()
    assert write_unit(builder.storage, "u", [digest], builder.scratch).clips == 1


def test_a_store_that_keeps_fewer_bytes_leaves_no_done_marker(builder) -> None:
    """Bug caught: a shard that was cut short on its way (a network disk that is full), vouched for."""

    class Short(LocalStorage):
        def upload(self, local: Path, key: str) -> None:
            self.write(key, local.read_bytes()[:-1])

    digest = builder.finish("u", "a", [builder.clip("a")])
    with pytest.raises(StorageError, match=r"holds \d+ of \d+ bytes"):
        write_unit(Short(builder.storage.uri), "u", [digest], builder.scratch)
    assert read_done(builder.storage, "u") is None


def test_a_finished_video_keeps_its_outcome(builder) -> None:
    """Bug caught: an enum or nested type lost on the way through JSON."""
    from pipeline.dataset.work import finished_videos

    digest = builder.finish("u", "a", [], RejectReason.TIMEOUT)
    outcome = read_outcome(builder.storage, "u", digest)
    assert outcome is not None
    assert outcome.reject is RejectReason.TIMEOUT
    assert outcome.info is not None
    assert outcome.info.width == 640
    assert finished_videos(builder.storage, "u") == [digest]
    assert finished_videos(builder.storage, "v") == []
    assert read_outcome(builder.storage, "u", "0" * 64) is None
