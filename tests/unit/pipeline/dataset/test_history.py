from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.compact import compact_dataset
from pipeline.dataset.format import MANIFEST_COLUMNS
from pipeline.dataset.history import ClipChange, diff_tables, diff_versions, version_rows
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.remove import remove_videos

NOTHING = {"clips_added": 0, "clips_removed": 0, "clips_remade": 0, "clips_relabelled": 0, "videos_added": 0,
           "videos_removed": 0, "videos_remade": 0}  # fmt: skip


def test_a_diff_names_what_came_and_what_went_in_both_directions(small, builder) -> None:
    """Bug caught: added and removed swapped; rejects, which are videos too, left out."""
    later = builder.publish(builder.unit("unit-three", {"e": [builder.clip("e", track=2, start=64)], "f": []}))
    forward, back = diff_versions(small, later), diff_versions(later, small)
    assert forward.clips_added == (ClipChange(builder.digest("e"), 2, 64, 128),) == back.clips_removed
    assert forward.videos_added == tuple(sorted(map(builder.digest, "ef"))) == back.videos_removed
    assert forward.counts() == NOTHING | {"clips_added": 1, "videos_added": 2}
    assert back.counts() == NOTHING | {"clips_removed": 1, "videos_removed": 2}
    assert diff_versions(small, small).counts() == NOTHING


def test_moving_clips_to_other_shards_changes_nothing(small, builder) -> None:
    """Bug caught: a comparison of shards instead of clips, which calls every compaction a new dataset."""
    compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000)
    assert diff_versions(small, open_dataset(builder.storage.uri)).counts() == NOTHING


def test_clips_made_anew_and_changed_labels_are_told_apart(small) -> None:
    """Bug caught: a clip of another recipe counted as lost and found; new labels unseen because the key is the same."""
    before, videos = small.manifest("unit-two"), small.videos("unit-two")
    keys = [f"{key[:-8]}ffffffff" if row == 0 else key for row, key in enumerate(before["key"].to_pylist())]
    labels = ['{"label": "fake"}' if row == 1 else text for row, text in enumerate(before["labels"].to_pylist())]
    splits = ["test" if row == 2 else split for row, split in enumerate(before["split"].to_pylist())]
    after = before
    for name, values in {"key": keys, "labels": labels, "split": splits}.items():
        field = MANIFEST_COLUMNS.field(name)
        after = after.set_column(after.schema.get_field_index(name), field, pa.array(values, field.type))
    found = diff_tables(before, after, videos, videos)
    assert found.counts() == NOTHING | {"clips_remade": 1, "clips_relabelled": 2, "videos_remade": 1}
    assert found.clips_remade[0].video == before["video"][0].as_py() == found.videos_remade[0]


def test_a_reject_that_was_tried_again_is_a_video_made_anew(small, builder) -> None:
    """Bug caught: an earlier outcome that hides the later one of the same version."""
    later = builder.publish(builder.unit("unit-three", {"b": [builder.clip("b")]}))
    compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000)
    for reader in (later, open_dataset(builder.storage.uri)):
        found = diff_versions(small, reader)
        assert found.videos_remade == (builder.digest("b"),)
        assert found.counts() == NOTHING | {"clips_added": 1, "videos_remade": 1}
    assert pc.sum(later.videos("unit-three")["clips"]).as_py() == 1


def test_the_list_says_when_why_and_from_what_each_version_was_made(small, builder) -> None:
    """Bug caught: a removed version that makes the whole list fail; numbers of another version."""
    compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000)
    builder.publish(builder.unit("unit-three", {"e": [builder.clip("e")]}))
    remove_videos(builder.storage, ["e.mp4"], builder.scratch)
    rows = version_rows(builder.storage)
    assert [(row.version, row.parent, row.why, row.successor) for row in rows] == [
        (1, None, "ingest", None), (2, 1, "compact", None), (3, None, None, 4), (4, 3, "remove", None),
    ]  # fmt: skip
    assert [row.counts.clips if row.counts else None for row in rows] == [5, 5, None, 5]
