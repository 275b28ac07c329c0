"""What is begun and not finished stops whoever would build on it."""

from __future__ import annotations

import pytest

from infra.errors import DatasetError
from pipeline.config import IngestConfig
from pipeline.dataset.compact import compact_dataset
from pipeline.dataset.pending import refuse_half_removed
from pipeline.dataset.remove import remove_videos
from pipeline.dataset.takedown import write_removed
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import latest_version
from pipeline.dry_run import plan_ingest
from pipeline.ingest import ingest
from pipeline.plan import Plan, Unit, write_plan
from pipeline.reparse import reparse
from pipeline.rows import SourceVideo


def test_nobody_builds_on_a_version_whose_takedown_died(small, builder, tmp_path) -> None:
    """Catches an ingest (or compaction, or reparse) that publishes a removed person once more, and says nothing."""
    (tmp_path / "videos").mkdir()
    cfg = IngestConfig(sources=(str(tmp_path / "videos"),), out=builder.storage.uri)
    gone = builder.digest("c")
    write_removed(builder.storage, {gone})  # here it was killed
    cure = f"takedown is unfinished: .*; run `marlin dataset remove {builder.storage.uri} {gone[:16]}`"
    for build_on in (
        lambda: ingest(cfg),
        lambda: plan_ingest(cfg),
        lambda: reparse(cfg),
        lambda: compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000),
    ):
        with pytest.raises(DatasetError, match=cure):
            build_on()
    assert latest_version(builder.storage) == small.version
    (problem,) = verify_dataset(small)
    assert gone[:16] in problem
    assert "`marlin dataset remove" in problem
    remove_videos(builder.storage, [gone[:16]], builder.scratch)
    refuse_half_removed(builder.storage, latest_version(builder.storage))
    assert compact_dataset(builder.storage, builder.scratch, shard_bytes=1_000_000).new


@pytest.mark.parametrize("by", ["digest", "content"])
def test_nobody_carries_out_a_plan_with_a_video_that_is_removed(small, builder, by) -> None:
    """Catches the interrupted night's plan, finished after a takedown that died before it reached the plan."""
    gone, file = builder.digest("cut"), builder.digest("file")
    video = SourceVideo(gone, "/x.mp4", "x.mp4", 1, content=file)
    write_plan(builder.storage, Plan(version=2, recipe_digest="ab", units=(Unit(id="u", videos=(video,)),)))
    refuse_half_removed(builder.storage, small.version)
    write_removed(builder.storage, {gone if by == "digest" else file})
    with pytest.raises(DatasetError, match="takedown is unfinished"):
        refuse_half_removed(builder.storage, small.version)
