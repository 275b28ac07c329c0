from __future__ import annotations

from pipeline.dataset.show import summary, video_rows
from pipeline.dataset.units import ShardEntry
from pipeline.dataset.work import write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.rows import RejectReason, VideoOutcome
from pipeline.sources.standin import standin_digest


def test_the_summary_has_exactly_the_promised_keys_and_counts(small) -> None:
    """Bug caught: a renamed key; rejects or filtered tracks left out; videos counted with their twins or rejects."""
    assert summary(small) == {
        "version": 1,
        "videos": 3,
        "clips": 5,
        "shards": 2,
        "frames": 64 * 4 + 20,
        "rejects": {"no_face": 1},
        "filtered": {"blurred": 4, "too_short": 4},
        "labels": {"label": {"real": 3}},
    }


def test_a_video_that_was_treated_again_counts_once_with_its_latest_outcome(builder, small) -> None:
    """Bug caught: a retried reject that stays in the ledger beside its success."""
    reader = builder.publish(builder.unit("unit-three", {"b": [builder.clip("b")]}))
    assert len(video_rows(reader)) == 4
    assert summary(reader)["rejects"] == {}
    assert summary(reader)["videos"] == 4


def test_bytes_that_were_had_in_the_end_are_no_reject_any_more(builder, small) -> None:
    """Catches `unreadable: 1` for ever, of a video that has clips; and a failure that came later and is hidden."""

    def failed(unit: str) -> ShardEntry:
        outcome = VideoOutcome(
            standin_digest("/source/e.mp4"), "e.mp4", 0, reject=RejectReason.UNREADABLE, place="/source/e.mp4"
        )
        write_outcome(builder.storage, unit, outcome)
        return write_unit(builder.storage, unit, [outcome.video], builder.scratch)

    assert summary(builder.publish(failed("three")))["rejects"] == {"no_face": 1, "unreadable": 1}
    healed = builder.publish(builder.unit("four", {"e": [builder.clip("e")]}))
    assert summary(healed)["rejects"] == {"no_face": 1}
    assert [row["reject"] for row in video_rows(healed) if row["name"] == "e.mp4"] == [None]
    assert summary(builder.publish(failed("five")))["rejects"] == {"no_face": 1, "unreadable": 1}
