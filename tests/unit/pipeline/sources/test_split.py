from __future__ import annotations

import hashlib

from pipeline.config import SplitConfig
from pipeline.rows import SourceVideo
from pipeline.sources.split import assign_split


def _video(index: int, **more: str | None) -> SourceVideo:
    return SourceVideo(hashlib.sha256(str(index).encode()).hexdigest(), f"/v/{index}.mp4", f"{index}.mp4", 1, **more)  # type: ignore[arg-type]


def test_the_share_is_about_right_and_nobody_moves_when_others_arrive() -> None:
    """Bug caught: a split drawn by position in the listing, which moves videos between train and validation."""
    cfg = SplitConfig(val_fraction=0.2)
    splits = [assign_split(_video(index), cfg, 0).split for index in range(2000)]
    assert 340 < splits.count("val") < 460
    assert splits == [assign_split(_video(index), cfg, 0).split for index in range(2000)]
    assert splits != [assign_split(_video(index), cfg, 1).split for index in range(2000)]


def test_all_videos_of_a_person_fall_together() -> None:
    """Bug caught: one face in both splits."""
    cfg = SplitConfig(val_fraction=0.5)
    assert len({assign_split(_video(index, identity="ffpp-004"), cfg, 0).split for index in range(50)}) == 1


def test_an_official_split_wins_over_a_glob_and_a_glob_over_the_hash() -> None:
    """Bug caught: test videos of an official split drawn into training."""
    cfg = SplitConfig(val_fraction=0, assign={"1*.mp4": "test", "*": "val"})
    assert assign_split(_video(1, split="train"), cfg, 0).split == "train"
    assert assign_split(_video(1), cfg, 0).split == "test"
    assert assign_split(_video(2), cfg, 0).split == "val"
    assert assign_split(_video(2), SplitConfig(val_fraction=0), 0).split == "train"
