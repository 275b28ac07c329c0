from __future__ import annotations

from pipeline.dataset.show import summary, video_rows


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
