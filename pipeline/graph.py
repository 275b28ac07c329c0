"""The Ray Data job: videos → TrackFaces → ParseRegions → WriteShard → one row a video on the driver.

Ray carries rows of a few hundred bytes; what is done and what is not is written in the dataset, and Ray's own retries
are a comfort only. An operator never raises: an error that must end the ingest travels to the driver as data, since
an exception inside Ray Data would come back as a traceback, or not at all. Actors restart a bounded number of times.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy, DataContext
from ray.util.annotations import RayDeprecationWarning

import infra.errors
from infra.errors import ProjectError, TransientError
from infra.storage import Storage
from pipeline.config import IngestConfig
from pipeline.stages import FinishedVideo, ParseRegions, PlannedVideo, TrackFaces, WriteShard

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times a stage tries one row while TransientErrors come."""
RESTARTS = 3
"""Times Ray replaces a dead actor, and repeats the row it died on; the default is without end."""
MAX_BLOCKS = 8192
CPU_SHARE = 0.45
"""CPUs that Ray books for an actor of the two heavy stages; so both pools always fit beside each other."""


def treat_videos(
    videos: Sequence[PlannedVideo], cfg: IngestConfig, recipe: str, storage: Storage, clips_from: type = TrackFaces
) -> Iterator[FinishedVideo]:
    """Run the job on the Ray session at hand and yield each video as it comes out of the last stage.

    ``clips_from`` is the stage that gives a video's clips.

    Raises:
        ProjectError: the store refuses, a worker cannot start, or Ray lost its workers for good.
    """
    _prepare()
    workers, share = _workers(cfg, len(videos))
    gpus = _gpus(cfg, workers)
    rows = ray.data.from_items([_row(video) for video in videos], override_num_blocks=min(len(videos), MAX_BLOCKS))
    with warnings.catch_warnings():  # 2.60 bounds restarts by keyword alone, and announces a change for 2.64
        warnings.simplefilter("ignore", RayDeprecationWarning)
        results = (
            rows.map(
                _operator(clips_from, cfg=cfg, recipe=recipe, storage=storage), **_pool(workers, workers, share, gpus)
            )
            .map(_operator(ParseRegions, cfg=cfg, storage=storage), **_pool(1, workers, share, gpus))
            .map(_operator(WriteShard, storage=storage), **_pool(1, 1, 0.1, 0.0))
        )
    try:
        for row in results.iter_rows():
            if row["failure"]:
                raise _failure(row["failure"])
            yield TypeAdapter(FinishedVideo).validate_json(row["row"])
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        raise ProjectError(
            f"Ray lost its workers ({first}); run the same command again, finished videos are kept"
        ) from error


def _workers(cfg: IngestConfig, videos: int) -> tuple[int, float]:
    """Number of actors of each heavy stage, and the CPUs that each books."""
    cpus = max(ray.cluster_resources().get("CPU", 1.0), 1.0)
    workers = min(cfg.workers or int(cpus), videos)
    return workers, min(CPU_SHARE, CPU_SHARE * cpus / workers)


def _gpus(cfg: IngestConfig, workers: int) -> float:
    """GPUs that each actor books: the back-ends that can use one share what there is."""
    if cfg.faces.kind == "embedded" or cfg.faces.device == "cpu":
        return 0.0
    return min(0.5, 0.5 * ray.cluster_resources().get("GPU", 0.0) / workers)


def _pool(least: int, most: int, cpus: float, gpus: float) -> dict[str, Any]:
    return {
        "compute": ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": RESTARTS,
        "max_task_retries": RESTARTS,
    }


def _prepare() -> None:
    """Keep Ray Data's chatter off the terminal (its log files have it), and its clock off long videos.

    Ray Data gives a job up when no row comes out for half an hour; a film of hours takes longer, and every video has
    a deadline of its own.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.execution_no_progress_timeout_s = -1
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)


def _operator(stage: type, **kwargs: Any) -> type:
    """Return the class that Ray Data sees, under the stage's name: JSON rows in and out, failures as data."""

    class Operator:
        def __init__(self) -> None:
            self._stage, self._rows = stage(**kwargs), TypeAdapter(stage.takes)  # type: ignore[attr-defined]

        def __call__(self, row: dict[str, str]) -> dict[str, str]:
            if row["failure"]:
                return row
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return _row(self._stage(self._rows.validate_json(row["row"])))
                except TransientError as error:
                    failure = error
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
