"""What happens to one video, and what happens when its unit is complete. No Ray here: typed rows in, typed rows out.

Rows only name videos; the bytes lie in the dataset's ``work/`` folder. So every stage can be repeated at any time: it
looks what is there and does what is missing. A video's own trouble becomes a reject; what is raised ends the ingest.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infra.errors import DatasetError, ProjectError
from infra.scratch import scratch_folder
from infra.storage import Storage
from pipeline.config import IngestConfig, LimitConfig
from pipeline.dataset.format import done_key, work_key
from pipeline.dataset.tar import TarReader
from pipeline.dataset.work import (
    CLIPS,
    OUTCOME,
    REGIONS,
    finished_videos,
    outcome_from_bytes,
    read_outcome,
    write_outcome,
)
from pipeline.dataset.writer import write_unit
from pipeline.killable import Killable
from pipeline.rejects import RejectError
from pipeline.requests import Extract, Measure, Parse
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.local import STAGED, local_copy

logger = logging.getLogger(__name__)

FAULTS = 8
"""Videos in a row that end the ingest when a worker meets errors of our own in each. They come in the order of their
digests, so even a bug in every tenth video makes such a row once in a hundred million; an ill machine costs minutes."""
WELL = (None, RejectReason.NO_FACE, RejectReason.NO_TRACK)
"""Results that show a machine to be well."""


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """One video of a unit, and how many the unit has.

    ``put_off`` by a stage that met an error of our own: it is not finished, and comes again as its ``last_try``.
    """

    unit: str
    unit_videos: int
    video: SourceVideo
    put_off: bool = False
    last_try: bool = False


@dataclass(frozen=True, slots=True)
class FinishedVideo:
    """What became of it, as the driver shows it.

    ``reject`` is None when clips came out, and ``detail`` too, unless damage has cost frames. ``bytes`` of the source,
    ``frames`` decoded, and ``seconds`` by stage. ``put_off``: it is not finished after all, see PlannedVideo.
    """

    unit: str
    unit_videos: int
    video: str
    name: str
    clips: int
    reject: str | None = None
    detail: str | None = None
    bytes: int = 0
    frames: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    put_off: bool = False


class Faults:
    """Tells the videos that we fail at from a machine on which every video fails.

    An error of our own is a reject (``internal``) only once a later video has shown that the worker's machine is well;
    until then, nothing is written of it, and it comes again at the end of the job.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._held: list[tuple[str, VideoOutcome]] = []

    def put_off(self, planned: PlannedVideo, outcome: VideoOutcome) -> bool:
        """Tell whether an outcome is not to be written now; those that were put off are, once one is good.

        Raises:
            ProjectError: as many as ``FAULTS`` in a row; none of them is written.
        """
        if outcome.reject in WELL:
            for unit, held in self._held:
                write_outcome(self._storage, unit, held)
            self._held.clear()
        if outcome.reject is not RejectReason.INTERNAL or planned.last_try:
            return False
        self._held.append((planned.unit, outcome))
        if len(self._held) >= FAULTS:
            self._held.clear()
            raise ill(f"{FAULTS} videos in a row on {socket.gethostname()}", outcome.detail or "no detail")
        return True


def ill(videos: str, detail: str) -> ProjectError:
    """Return the error that ends an ingest on a machine that treats no video."""
    return ProjectError(
        f"{videos} failed by errors of our own ({detail[:300]}); nothing of them is kept: mend the machine, or report "
        "the error, and run the same command again"
    )


class TrackFaces:
    """Probe, decode, detect, link, smooth, crop and encode one video → ``work/<unit>/<video>.clips.tar``.

    Rejects: every reason of the media and faces code, ``timeout``, ``out_of_memory``, ``crashed``, ``internal``, and
    ``unreachable`` where its staged bytes are gone. A reject is finished here: its outcome is written, no clips are.
    Needs a CPU, and a GPU where the back-end has one.

    Raises:
        StorageError: the store or the local disk refuses.
        ProjectError: the worker cannot start (weights that cannot be had, say), or fails at every video (``Faults``).
    """

    takes = PlannedVideo
    worker = "pipeline.workers:ClipWorker"

    def __init__(self, cfg: IngestConfig, recipe: str, storage: Storage) -> None:
        self._storage, self._faults = storage, Faults(storage)
        self._scratch = scratch_folder()
        self._child = _killable(self.worker, {"cfg": cfg, "recipe": recipe}, cfg.limits)

    def __call__(self, planned: PlannedVideo) -> PlannedVideo:
        """Treat one video, unless its result is there."""
        unit, video = planned.unit, planned.video
        clips_key = work_key(unit, video.digest, CLIPS)
        if self._storage.exists(clips_key) or read_outcome(self._storage, unit, video.digest):
            return planned
        path = self._scratch / f"{video.digest}.{CLIPS}"
        with _removed_afterwards(path):
            outcome = self._outcome(video, path)
            if self._faults.put_off(planned, outcome):
                return replace(planned, put_off=True)
            if outcome.reject is None:
                self._storage.upload(path, clips_key)
            else:
                write_outcome(self._storage, unit, outcome)
        return planned

    def _outcome(self, video: SourceVideo, tar: Path) -> VideoOutcome:
        def work() -> VideoOutcome:
            if video.path.startswith(STAGED) and not self._storage.exists(video.path.removeprefix(STAGED)):
                raise RejectError(RejectReason.UNREACHABLE, "its staged bytes are gone; the next ingest fetches them")
            with (
                local_copy(video.path, self._storage, self._scratch) as local,
                _plain_path(local, self._scratch) as path,
            ):
                length_s = self._child.call(Measure(path), length_s=0)
                outcome: VideoOutcome = self._child.call(Extract(video, path, tar), length_s=length_s)
                return outcome

        return _own_failures_reject(work, VideoOutcome.of(video))


class ParseRegions:
    """Parse every fourth frame of each clip of one video → ``work/<unit>/<video>.regions.tar``, then its outcome.

    Rejects: ``timeout``, ``out_of_memory``, ``crashed``, ``internal``. Raises as TrackFaces. Needs one CPU, and a GPU
    where the parser has one.
    """

    takes = PlannedVideo
    worker = "pipeline.workers:RegionWorker"

    def __init__(self, cfg: IngestConfig, storage: Storage) -> None:
        self._storage, self._faults, self._clip_frames = storage, Faults(storage), cfg.clip.max_frames
        self._scratch = scratch_folder()
        self._child = _killable(self.worker, {"cfg": cfg}, cfg.limits)

    def __call__(self, planned: PlannedVideo) -> FinishedVideo:
        """Treat one video, unless it is finished."""
        unit, digest = planned.unit, planned.video.digest
        if planned.put_off:
            return FinishedVideo(unit, planned.unit_videos, digest, planned.video.name, 0, put_off=True)
        outcome = read_outcome(self._storage, unit, digest)
        put_off = False
        if outcome is None:
            outcome = self._parse(unit, digest)
            put_off = self._faults.put_off(planned, outcome)
            if not put_off:
                write_outcome(self._storage, unit, outcome)
        return FinishedVideo(
            unit,
            planned.unit_videos,
            digest,
            outcome.name,
            outcome.clips,
            reject=str(outcome.reject) if outcome.reject else None,
            detail=(outcome.detail or "")[:300] or None,
            bytes=outcome.bytes,
            frames=outcome.decoded,
            seconds=outcome.seconds,
            put_off=put_off,
        )

    def _parse(self, unit: str, digest: str) -> VideoOutcome:
        clips, regions = self._scratch / f"{digest}.{CLIPS}", self._scratch / f"{digest}.{REGIONS}"
        with _removed_afterwards(clips, regions):
            self._storage.download(work_key(unit, digest, CLIPS), clips)
            with TarReader(clips) as tar:
                tracked = outcome_from_bytes(tar.read(OUTCOME))
            fps = tracked.info.fps if tracked.info and tracked.info.fps > 0 else 25.0
            length_s = tracked.clips * self._clip_frames / fps
            outcome = _own_failures_reject(lambda: self._child.call(Parse(clips, regions), length_s=length_s), tracked)
            if outcome.reject is None:
                self._storage.upload(regions, work_key(unit, digest, REGIONS))
        return outcome


class WriteShard:
    """When a unit's last video is finished: merge, verify, publish → shard, manifest, table of videos, done marker.

    The finished videos are counted in the store and nowhere else. Two workers may both see the last one; both then
    write the same unit. Raises as ``write_unit``.
    """

    takes = FinishedVideo

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._scratch = scratch_folder()

    def __call__(self, finished: FinishedVideo) -> FinishedVideo:
        """Write the unit's shard when it is complete; the row passes through."""
        if not self._storage.exists(done_key(finished.unit)):
            videos = finished_videos(self._storage, finished.unit)
            if len(videos) == finished.unit_videos:
                write_unit(self._storage, finished.unit, videos, self._scratch)
        return finished


def _killable(worker: str, kwargs: dict[str, Any], limits: LimitConfig) -> Killable:
    return Killable(worker, kwargs, limits, recycle_after=limits.recycle_videos)


def _own_failures_reject(work: Callable[[], VideoOutcome], seen: VideoOutcome) -> VideoOutcome:
    """Return what ``work`` returns; a failure that is the video's own turns ``seen`` into a reject, others pass."""
    try:
        return work()
    except RejectError as error:
        reason, detail = error.reason, error.detail
    except DatasetError as error:  # its own result is damaged
        reason, detail = RejectReason.INTERNAL, str(error)
    except ProjectError:
        raise
    except Exception as error:  # our own mistake must cost one video and not the night
        logger.exception("video %s", seen.name)
        reason, detail = RejectReason.INTERNAL, f"{type(error).__name__}: {error}"
    return replace(seen, clips=0, reject=reason, detail=detail)


@contextlib.contextmanager
def _removed_afterwards(*paths: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _plain_path(path: str, scratch: Path) -> Iterator[str]:
    """Yield a path that native libraries can open: a link, where the file's name is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        link = scratch / hashlib.sha256(os.fsencode(path)).hexdigest()
        with _removed_afterwards(link):
            link.symlink_to(path)
            yield str(link)
        return
    yield path
