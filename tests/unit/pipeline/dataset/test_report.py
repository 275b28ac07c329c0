"""The page of a dataset."""

from __future__ import annotations

from pipeline.dataset.report import report_sections


def test_seconds_by_stage_and_bytes_are_told(small) -> None:
    """Bug caught: a night that got slow, and nobody can tell in which stage."""
    (cost,) = (section for section in report_sections(small, max_faces=0) if section.title == "What it cost")
    facts, table = cost.blocks
    assert dict(facts.pairs)["seconds of all workers"] == 2.0  # four videos of 0.5 s
    assert dict(facts.pairs)["bytes of the videos"] == "4,000"
    assert dict(facts.pairs)["bytes of the shards"] == f"{sum(entry.tar_bytes for entry in small.version.units):,}"
    assert list(table.rows) == [("decode", 2.0, "100 %", round(2000 / (4 * 128), 2))]
