"""What the job does about failures, with stand-ins for what fails; tests/fault has the real thing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import pytest
import ray

from infra.errors import ProjectError, StorageError, TransientError
from infra.storage import open_storage
from pipeline import graph
from pipeline.config import IngestConfig
from pipeline.rows import SourceVideo
from pipeline.stages import FAULTS, FinishedVideo, PlannedVideo

PLANNED = [PlannedVideo("u", 9, SourceVideo(f"{number:064x}", f"/v/{number}.mp4", "", 1)) for number in range(9)]


class Stage:
    takes = PlannedVideo
    tries = 0

    def __init__(self, *, broken: bool = False) -> None:
        if broken:
            raise StorageError("cannot make /tmp/x: No space left on device")

    def __call__(self, planned: PlannedVideo) -> FinishedVideo:
        Stage.tries += 1
        if Stage.tries < 3 or planned.video.bytes == 0:
            raise TransientError("busy")
        return FinishedVideo(planned.unit, planned.unit_videos, planned.video.digest, "a", 1)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    Stage.tries = 0
    monkeypatch.setattr(graph.time, "sleep", lambda _: None)


def test_what_may_pass_is_tried_three_times_and_then_told() -> None:
    """Bug caught: a busy store that ends the night at once, or is asked for ever."""
    operator = graph._operator(Stage)()
    row = operator(graph._row(PLANNED[0]))
    assert (row["failure"], Stage.tries) == ("", 3)
    Stage.tries = 0
    poor = PlannedVideo("u", 9, SourceVideo("a" * 64, "/v/a.mp4", "", 0))
    assert operator(graph._row(poor))["failure"] == "TransientError|busy"
    assert Stage.tries == 3


def test_a_stage_that_cannot_be_made_is_told_as_one_sentence() -> None:
    """Bug caught: a full scratch disk that looks like lost workers, with Ray's traceback."""
    row = graph._operator(Stage, broken=True)()(graph._row(PLANNED[0]))
    assert isinstance(graph._failure(row["failure"]), StorageError)
    assert "No space left" in row["failure"]


def _losing(per_run: int, runs: list[int]) -> object:
    """A job that yields so many videos and then loses its workers; ``runs`` gets the number of videos of each run."""

    def run(videos: Sequence[PlannedVideo], *_: object) -> Iterator[FinishedVideo]:
        runs.append(len(videos))
        for planned in videos[:per_run]:
            yield FinishedVideo("u", 9, planned.video.digest, "", 1)
        if per_run < len(videos):
            raise ray.exceptions.NodeDiedError("node died")

    return run


@pytest.mark.parametrize(("per_run", "expected"), [(9, [9]), (4, [9, 5, 1]), (1, [9, 8, 7, 6, 5, 4, 3, 2, 1])])
def test_lost_workers_start_the_job_again_for_what_is_left_as_long_as_videos_come_out(
    monkeypatch: pytest.MonkeyPatch, per_run: int, expected: list[int], tmp_path: object
) -> None:
    """Bug caught: rows dropped or given twice after a loss; a long night ended by its fourth loss."""
    runs: list[int] = []
    monkeypatch.setattr(graph, "_run", _losing(per_run, runs))
    out = list(graph.treat_videos(PLANNED, IngestConfig(), "r", open_storage(str(tmp_path))))
    assert sorted(video.video for video in out) == [planned.video.digest for planned in PLANNED]
    assert runs == expected


def test_losses_without_progress_come_to_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Bug caught: Ray Data's default, which replaces dead workers without end."""
    runs: list[int] = []
    monkeypatch.setattr(graph, "_run", _losing(0, runs))
    with pytest.raises(ProjectError, match=r"lost its workers 4 times .* run the same command again"):
        list(graph.treat_videos(PLANNED, IngestConfig(), "r", open_storage(str(tmp_path))))
    assert runs == [9] * 4


def _failing(fails: Callable[[PlannedVideo], bool], runs: list[int]) -> object:
    """A job whose stages put off what ``fails``, until its last try."""

    def run(videos: Sequence[PlannedVideo], *_: object) -> Iterator[FinishedVideo]:
        runs.append(len(videos))
        for planned in videos:
            bad = fails(planned)
            put_off = bad and not planned.last_try
            reject = "internal" if bad else "no_face"
            yield FinishedVideo("u", 9, planned.video.digest, "", 0, reject, put_off=put_off)

    return run


def test_what_was_put_off_is_tried_once_more_and_comes_out_once(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Catches a video put off that is counted as finished, lost, or put off for ever."""
    runs: list[int] = []
    fail = [planned.video.digest for planned in PLANNED[:FAULTS]]
    monkeypatch.setattr(graph, "_run", _failing(lambda planned: planned.video.digest in fail, runs))
    out = list(graph.treat_videos(PLANNED, IngestConfig(), "r", open_storage(str(tmp_path))))
    assert [video.reject for video in out] == ["no_face"] + ["internal"] * FAULTS
    assert runs == [9, FAULTS]


def test_a_night_of_nothing_but_errors_of_our_own_ends(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Catches an ill machine with so many workers, or so few videos, that none has enough failures in a row."""
    monkeypatch.setattr(graph, "_run", _failing(lambda planned: True, []))
    storage, few = open_storage(str(tmp_path)), PLANNED[: FAULTS - 1]
    with pytest.raises(ProjectError, match="9 videos, on all workers, failed by errors of our own"):
        list(graph.treat_videos(PLANNED, IngestConfig(), "r", storage))
    assert len(list(graph.treat_videos(few, IngestConfig(), "r", storage))) == len(few)


def test_only_rays_own_terminal_handlers_are_silenced() -> None:
    """Bug caught: a test runner's or a service's handlers on Ray Data's logger, deaf for the rest of the process."""
    logger, ours = logging.getLogger("ray.data"), logging.StreamHandler()
    logger.addHandler(ours)
    try:
        graph._prepare()
        rays = [handler for handler in logger.handlers if type(handler).__module__ == "ray._private.log"]
        assert rays
        assert {handler.level for handler in rays} == {logging.CRITICAL}
        assert ours.level == logging.NOTSET
    finally:
        logger.removeHandler(ours)
