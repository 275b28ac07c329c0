"""The Ray Data job: videos → TrackFaces → ParseRegions → WriteShard → one row a video on the driver.

Ray carries rows of a few hundred bytes; what is done and what is not is written in the dataset. An operator never
raises: an error that must end the ingest travels to the driver as data, since an exception inside Ray Data would come
back as a traceback, or not at all. Ray repeats nothing by itself: when a worker or a node is lost, the job is started
again for the videos that are left, on the nodes that are left, as long as videos come out in between. Videos that a
stage has put off (``pipeline.stages.Faults``) make a second, short job at the end.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import ray
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

import infra.errors
from infra.errors import ProjectError, TransientError
from infra.storage import Storage
from pipeline.config import IngestConfig
from pipeline.resources import Node, Placement, place
from pipeline.stages import FAULTS, WELL, FinishedVideo, ParseRegions, PlannedVideo, TrackFaces, WriteShard, ill

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times a stage tries one row while TransientErrors come."""
RESTARTS = 3
"""Times that the job is started again after losing workers while no video comes out."""
IDLE_RESTARTS = 3
"""Times that Ray replaces a worker of a later stage; a row that it had is not tried again by it."""
SETTLE_S = 5.0
"""Seconds between losing workers and starting again: Ray learns of a dead node by and by."""
MAX_BLOCKS = 8192


def treat_videos(
    videos: Sequence[PlannedVideo], cfg: IngestConfig, recipe: str, storage: Storage, clips_from: type = TrackFaces
) -> Iterator[FinishedVideo]:
    """Run the job on the Ray session at hand and yield each video as it comes out of the last stage, once.

    ``clips_from`` is the stage that gives a video's clips.

    Raises:
        ConfigError: the cluster cannot hold what ``cfg.resources`` books.
        ProjectError: the store refuses, a worker cannot start, workers are lost again and again, or nothing but errors
            of our own comes of the videos.
    """
    left = {(planned.unit, planned.video.digest): planned for planned in videos}
    losses, is_well = 0, False
    while left:
        try:
            for finished in _run(list(left.values()), cfg, recipe, storage, clips_from):
                key = (finished.unit, finished.video)
                if finished.put_off:
                    left[key] = replace(left[key], last_try=True)
                elif left.pop(key, None):
                    losses, is_well = 0, is_well or finished.reject in WELL
                    yield finished
            if len(left) >= FAULTS and not is_well:  # spread over workers, none of which had so many in a row
                raise ill(f"{len(left)} videos, on all workers,", "the log has them")
        except ray.exceptions.RayError as error:
            losses += 1
            first = str(error).strip().splitlines()[0]
            if losses > RESTARTS:
                raise ProjectError(
                    f"Ray lost its workers {losses} times without finishing a video ({first}); "
                    "run the same command again, finished videos are kept"
                ) from error
            logger.warning("Ray lost a worker or a node (%s); going on with %d videos", first, len(left))
            time.sleep(SETTLE_S)


def _run(
    videos: Sequence[PlannedVideo], cfg: IngestConfig, recipe: str, storage: Storage, clips_from: type
) -> Iterator[FinishedVideo]:
    """Start the job once, on the nodes that there are."""
    _prepare()
    at = place(cfg, len(videos), _nodes())
    rows = ray.data.from_items([_row(video) for video in videos], override_num_blocks=min(len(videos), MAX_BLOCKS))
    track = _operator(clips_from, cfg=cfg, recipe=recipe, storage=storage)
    with warnings.catch_warnings():  # 2.60 bounds restarts by keyword alone, and announces a change for 2.64
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = (
            rows.map(track, **_pool(at.track_faces, fixed=True))
            .map(_operator(ParseRegions, cfg=cfg, storage=storage), **_pool(at.parse_regions))
            .map(_operator(WriteShard, storage=storage), **_pool(at.write_shard))
        )
    # no prefetching: its thread may outlive the job, and where it asks Ray after that was stopped, Ray ends the process
    batches = iter(results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    with contextlib.closing(cast("Generator[pa.Table]", batches)) as tables:
        for row in (row for table in tables for row in table.to_pylist()):
            if row["failure"]:
                raise _failure(row["failure"])
            yield TypeAdapter(FinishedVideo).validate_json(row["row"])


def _nodes() -> list[Node]:
    """What the living nodes of the cluster have."""
    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _pool(stage: Placement, *, fixed: bool = False) -> dict[str, Any]:
    least = stage.workers if fixed else 1
    return {
        "compute": ActorPoolStrategy(min_size=least, max_size=stage.workers, max_tasks_in_flight_per_actor=2),
        "num_cpus": stage.cpus,
        "num_gpus": stage.gpus,
        # Ray Data misses nobody who dies idle, and waits for ever; the first stage is never idle while rows are left
        "max_restarts": 0 if fixed else IDLE_RESTARTS,
        "max_task_retries": 0,  # Ray's default repeats without end; who dies at work ends the job, which starts again
    }


def _prepare() -> None:
    """Keep Ray Data's chatter off the terminal (its log files have it), and its clock off long videos.

    Ray Data gives a job up when no row comes out for half an hour; a film of hours takes longer, and every video has
    a deadline of its own.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    for handler in logging.getLogger("ray.data").handlers:  # another's, such as a test runner's, is left alone
        if isinstance(handler, logging.StreamHandler) and type(handler).__module__.startswith("ray."):
            handler.setLevel(logging.CRITICAL)


def _operator(stage: type, **kwargs: Any) -> type:
    """Return the class that Ray Data sees, under the stage's name: JSON rows in and out, failures as data."""

    class Operator:
        def __init__(self) -> None:
            self._stage: Any = None  # made at the first row: what it raises is data too
            self._rows = TypeAdapter(stage.takes)  # type: ignore[attr-defined]

        def __call__(self, row: dict[str, str]) -> dict[str, str]:
            if row["failure"]:
                return row
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    self._stage = self._stage or stage(**kwargs)
                    return _row(self._stage(self._rows.validate_json(row["row"])))
                except TransientError as error:
                    failure = error
                    if attempt < ATTEMPTS:
                        time.sleep(2.0**attempt)
                except Exception as error:  # everything ends on the driver, as one sentence
                    return {**row, "failure": _told(error)}
            return {**row, "failure": _told(failure)}

    Operator.__name__ = Operator.__qualname__ = stage.__name__
    return Operator


def _row(value: PlannedVideo | FinishedVideo) -> dict[str, str]:
    return {"row": TypeAdapter(type(value)).dump_json(value).decode(), "failure": ""}


def _told(error: Exception) -> str:
    logger.exception("the ingest ends")
    kind = type(error).__name__
    return f"{kind}|{error}" if isinstance(error, ProjectError) else f"ProjectError|internal error: {kind}: {error}"


def _failure(told: str) -> ProjectError:
    kind, _, sentence = told.partition("|")
    known = getattr(infra.errors, kind, ProjectError)
    return known(sentence)
