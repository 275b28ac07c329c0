from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import SplitConfig
from pipeline.rows import ListedVideo
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import open_source

Lister = Callable[..., dict[str, ListedVideo]]


@pytest.fixture
def listed() -> Lister:
    """``listed(source, dataset={"train": PATH, …})`` → the videos of a source by name, with official splits."""

    def run(source: Path, **official: dict[str, str]) -> dict[str, ListedVideo]:
        videos = list(open_source(str(source), Layouts(SplitConfig.model_validate({"official": official}))).list())
        by_name = {video.name: video for video in videos}
        assert len(by_name) == len(videos)
        return by_name

    return run
