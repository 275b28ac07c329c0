"""The job on Ray, around a first stage at which no video but one of a healthy machine comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray.data._internal.block_batching.util import WaitBlockPrefetcher

from infra.errors import ProjectError
from infra.ray_session import ray_session
from infra.storage import Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.work import finished_videos, write_outcome
from pipeline.dataset.writer import read_done
from pipeline.graph import treat_videos
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.stages import FAULTS, Faults, PlannedVideo

pytestmark = pytest.mark.timeout(600)


class Failing:
    """Fails by an error of our own at every video whose name says so, as TrackFaces would."""

    takes = PlannedVideo

    def __init__(self, cfg: IngestConfig, recipe: str, storage: Storage) -> None:
        self._storage, self._faults = storage, Faults(storage)

    def __call__(self, planned: PlannedVideo) -> PlannedVideo:
        reason = RejectReason.INTERNAL if planned.video.name == "bad" else RejectReason.NO_FACE
        outcome = replace(VideoOutcome.of(planned.video), reject=reason, detail="RuntimeError: CUDA error")
        if self._faults.put_off(planned, outcome):
            return replace(planned, put_off=True)
        write_outcome(self._storage, planned.unit, outcome)
        return planned


@pytest.fixture(scope="module", autouse=True)
def ray_on_two_cpus() -> Iterator[None]:
    with ray_session(2):
        yield


def _planned(*names: str) -> list[PlannedVideo]:
    return [
        PlannedVideo("u", len(names), SourceVideo(f"{number:064x}", f"/{number}.mp4", name, 1))
        for number, name in enumerate(names)
    ]


def test_a_video_that_was_put_off_is_tried_again_and_its_unit_is_written(tmp_path: Path) -> None:
    """Catches a row that loses its mark on the way through Ray, and a unit that is never complete."""
    storage = open_storage(str(tmp_path / "d"))
    out = list(treat_videos(_planned("good", "bad", "bad"), IngestConfig(workers=1), "r", storage, Failing))
    assert sorted((video.name, video.reject) for video in out) == [
        ("bad", "internal"), ("bad", "internal"), ("good", "no_face"),
    ]  # fmt: skip
    assert read_done(storage, "u").videos == 3


def test_an_ill_machine_ends_the_job_with_one_sentence_and_no_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an error that comes to the driver as Ray's traceback, and rejects that the next run would publish.

    And blocks that are fetched ahead by a thread: it ends the process when Ray is stopped, before the sentence is said.
    """
    storage = open_storage(str(tmp_path / "d"))
    videos, ahead = _planned(*["bad"] * (FAULTS + 2)), []
    monkeypatch.setattr(WaitBlockPrefetcher, "prefetch_blocks", lambda _, blocks: ahead.append(blocks))
    with pytest.raises(ProjectError, match=rf"^{FAULTS} videos in a row on \S+ failed by errors of our own"):
        list(treat_videos(videos, IngestConfig(workers=1), "r", storage, Failing))
    assert ahead == []
    assert finished_videos(storage, "u") == []
