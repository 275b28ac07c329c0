from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import SplitConfig
from pipeline.rows import ListedVideo
from pipeline.sources.folder import list_videos

Lister = Callable[..., dict[str, ListedVideo]]


@pytest.fixture
def listed() -> Lister:
    """``listed(source, dataset={"train": PATH, …})`` → the videos of a source by name, with official splits."""

    def run(source: Path, **official: dict[str, str]) -> dict[str, ListedVideo]:
        videos = list(list_videos([str(source)], SplitConfig.model_validate({"official": official})))
        by_name = {video.name: video for video in videos}
        assert len(by_name) == len(videos)
        return by_name

    return run
