"""Ingestion from end to end: list, plan, treat what is new, publish one version. Every step can be repeated."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import ConfigError, DatasetError
from infra.progress import Progress
from infra.ray_session import ray_session
from infra.run import RunContext
from infra.storage import LocalStorage, Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.format import PLAN_KEY, is_own_key, manifest_key, shard_key, videos_key
from pipeline.dataset.lock import refuse_other_things, remove_temporaries, writer_lock
from pipeline.dataset.pending import refuse_half_removed
from pipeline.dataset.takedown import read_removed
from pipeline.dataset.units import Units
from pipeline.dataset.versions import Counts, DatasetVersion, Licence, latest_version, publish_version
from pipeline.dataset.work import read_outcome, write_outcome
from pipeline.dataset.writer import read_done
from pipeline.faces.backend import backend_licences
from pipeline.ingest_metrics import IngestMetrics
from pipeline.known import Known, read_known
from pipeline.plan import Plan, Unit, plan_units, read_plan, write_plan
from pipeline.recipe import recipe_difference, recipe_digest, recipe_settings
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.addresses import shown_place
from pipeline.sources.emptied import check_emptied, remember_sources
from pipeline.sources.listing import check_sources, list_sources
from pipeline.sources.local import STAGED_PREFIX
from pipeline.sources.seen import Seen
from pipeline.sources.split import assign_split
from pipeline.sources.staging import Stager
from pipeline.sources.triage import triage
from pipeline.stages import FinishedVideo, PlannedVideo

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did.

    ``version`` is the newest version now and ``counts`` its totals; ``new`` tells whether this ingest made it.
    ``listed`` videos were offered; ``treated`` of them came out of this run, with ``clips`` clips and with
    ``rejects`` {reason: videos}.
    """

    dataset: str
    version: int
    new: bool
    counts: Counts
    listed: int
    treated: int
    clips: int
    rejects: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0


def ingest(cfg: IngestConfig, run: RunContext | None = None, *, retry: Collection[RejectReason] = ()) -> IngestReport:
    """Bring the dataset up to date with its sources.

    Videos that the newest version knows are neither read nor decoded again. A plan that an earlier ingest left
    unfinished is finished first and becomes a version of its own. With nothing new no version is made.

    Args:
        cfg: sources, settings, and where the dataset is.
        run: run folder to record inputs, outputs and progress in.
        retry: listed videos that were rejected for one of these reasons are treated again. (What could not be read or
            reached is always tried again.)

    Raises:
        ConfigError: no source, an absent one, nothing in it that looks like a video, a dataset inside its own source,
            other things where the dataset is to be, a source that lists nothing any more, or settings that differ from
            those that made the dataset.
        DatasetError: the dataset is damaged, another ingest writes it, or a takedown from it is unfinished.
        StorageError: the store refuses (disk full, say). The last version stays intact; run again to continue.
        TransientError: a source cannot be listed now.
    """
    start = time.monotonic()
    check_sources(cfg)
    storage = open_storage(cfg.out)
    refuse_other_things(storage)
    with IngestMetrics.exported(cfg.metrics, run.dir if run else None) as metrics, writer_lock(storage):
        before = latest_version(storage)
        refuse_half_removed(storage, before)
        recipe = recipe_digest(cfg)
        check_recipe(before, cfg, recipe)
        finished = list(_finish_old_plan(storage, cfg, before, recipe, run, metrics))
        latest = latest_version(storage)
        known = read_known(storage, latest, refresh=True)
        offer = _stage(storage, cfg, known, retry, run, metrics)
        if not offer.listed and latest is None:
            raise ConfigError(f"no video was found in {_named(cfg)}; no dataset was made")
        due = latest.version + 1 if latest else 1
        units = plan_units(offer.videos, known, recipe, cfg.shard_mb * 1_000_000, version=due, retry=retry)
        if units:
            plan = Plan(version=due, recipe_digest=recipe, source_licence=cfg.source_licence, units=units)
            write_plan(storage, plan)
            finished += _carry_out(storage, cfg, plan, latest, run, metrics)
        else:
            _sweep(storage)
        latest = latest_version(storage)
        if latest is not None:
            metrics.succeeded(latest.version)
    made = latest is not None and (before is None or latest.version > before.version)
    if latest is None:
        raise ConfigError(f"every video of {_named(cfg)} was taken down; no dataset was made")
    if not made:
        logger.info("nothing new in %d videos; version %d stays the newest", offer.listed, latest.version)
    rejects = Counter(str(video.reject) for video in finished if video.reject)
    rejects.update({str(RejectReason.REMOVED): offer.removed} if offer.removed else {})
    report = IngestReport(
        dataset=storage.uri,
        version=latest.version,
        new=made,
        counts=latest.counts,
        listed=offer.listed,
        treated=len(finished),
        clips=sum(video.clips for video in finished),
        rejects=dict(sorted(rejects.items())),
        wall_s=round(time.monotonic() - start, 2),
    )
    _record(run, cfg, offer, latest, report)
    return report


@dataclass(frozen=True, slots=True)
class _Offer:
    """What the sources offer: staged ``videos``, digests that need no work, and how many may not return."""

    videos: tuple[SourceVideo, ...]
    settled: tuple[str, ...]
    listed: int
    removed: int


def _stage(
    storage: Storage,
    cfg: IngestConfig,
    known: Known,
    retry: Collection[RejectReason],
    run: RunContext | None,
    metrics: IngestMetrics,
) -> _Offer:
    """List all sources, and read or fetch what no version knows; splits are assigned."""
    seen, removed = Seen(storage), read_removed(storage)
    counts: dict[str, int] = {}
    found = triage(list_sources(cfg, warn=True, counts=counts), seen, known, removed, retry)
    metrics.listed(counts[source] for source in cfg.sources)
    check_emptied(storage, counts, allow=cfg.allow_empty_sources)
    remember_sources(storage, counts)
    videos: list[SourceVideo] = []
    gone = found.removed
    if found.due:
        stager = Stager(storage, cfg.fetch, seen, known, removed, retry)
        with (
            Progress("stage", len(found.due), unit="video", folder=run.dir if run else None) as progress,
            contextlib.closing(stager.stage(found.due)) as places,
        ):
            for staged in places:
                videos += (assign_split(video, cfg.split, cfg.seed) for video in staged.videos)
                gone += staged.removed
                progress.update(len(staged.videos) + staged.removed, staged.videos[0].name if staged.videos else "")
    if gone:
        logger.warning("%d videos were taken down and are left out", gone)
    return _Offer(tuple(videos), found.settled, found.listed, gone)


def _named(cfg: IngestConfig) -> str:
    return ", ".join(map(shown_place, cfg.sources))


def check_recipe(latest: DatasetVersion | None, cfg: IngestConfig, recipe: str) -> None:
    """Raise ConfigError, naming the settings, when the dataset was made with others."""
    if latest is not None and latest.recipe_digest != recipe:
        changed = recipe_difference(latest.recipe, recipe_settings(cfg))
        raise ConfigError(
            f"dataset {cfg.out} was made with other settings: {', '.join(changed)}; "
            "set them back, or choose another --out for the new ones"
        )


def _finish_old_plan(
    storage: Storage,
    cfg: IngestConfig,
    latest: DatasetVersion | None,
    recipe: str,
    run: RunContext | None,
    metrics: IngestMetrics,
) -> Iterable[FinishedVideo]:
    """Finish what an interrupted ingest planned; sweep what it published; drop what was planned for other settings."""
    plan = read_plan(storage)
    if plan is None:
        return []
    due = latest.version + 1 if latest else 1
    if plan.version == due and plan.recipe_digest == recipe:
        logger.info("finishing the plan of an interrupted ingest: %d videos", plan.videos)
        return _carry_out(storage, cfg, plan, latest, run, metrics)
    if plan.version >= due:  # else it was published, and older versions may hold what the latest no longer lists
        logger.warning("an unfinished plan for other settings is dropped: %d videos", plan.videos)
        listed = set(latest.units.column("unit")) if latest else set()
        for unit in plan.units:
            if unit.id not in listed:
                for key in (shard_key(unit.id), manifest_key(unit.id), videos_key(unit.id)):
                    storage.delete(key)
    _sweep(storage)
    return []


def _carry_out(
    storage: Storage,
    cfg: IngestConfig,
    plan: Plan,
    parent: DatasetVersion | None,
    run: RunContext | None,
    metrics: IngestMetrics,
) -> list[FinishedVideo]:
    """Treat the plan's videos, publish its version, sweep."""
    pending = [unit for unit in plan.units if read_done(storage, unit.id) is None]
    _write_rejects(storage, pending)
    videos = [PlannedVideo(unit.id, len(unit.videos), video) for unit in pending for video in unit.videos]
    finished = []
    if videos:
        from pipeline.graph import treat_videos  # Ray is loaded when there is work, and only then

        with (
            Progress(
                "ingest",
                plan.videos,
                unit="video",
                folder=run.dir if run else None,
                initial=plan.videos - len(videos),
            ) as progress,
            ray_session(),
        ):
            metrics.planned(len(videos))
            for video in treat_videos(videos, cfg, plan.recipe_digest, storage):
                finished.append(video)
                metrics.finished(video)
                result = f"rejected: {video.reject}" if video.reject else f"{video.clips} clips"
                progress.update(1, f"{metrics.frames_per_s:.0f} frames/s, {video.name}: {result}")
    entries = [read_done(storage, unit.id) for unit in plan.units]
    done = tuple(entry for entry in entries if entry is not None)
    if len(done) != len(plan.units):
        raise DatasetError(f"{len(plan.units) - len(done)} units of {storage.uri} were not completed; run again")
    licence = cfg.source_licence if plan.source_licence is None else plan.source_licence
    version = DatasetVersion(
        version=plan.version,
        parent=parent.version if parent else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=recipe_settings(cfg),
        recipe_digest=plan.recipe_digest,
        faces=cfg.faces.kind,
        licences=tuple(Licence.model_validate(part) for part in backend_licences(cfg.faces)),
        source_licences=tuple(dict.fromkeys((*(parent.source_licences if parent else ()), licence))),
        units=(parent.units if parent else Units.of(())).extended(done),
    )
    publish_version(storage, version)
    _sweep(storage)
    return finished


def _write_rejects(storage: Storage, units: Iterable[Unit]) -> None:
    """Declare finished the videos whose bytes could not be had: no stage has anything to do with them."""
    for unit in units:
        for video in unit.videos:
            if video.reject is not None and read_outcome(storage, unit.id, video.digest) is None:
                write_outcome(storage, unit.id, VideoOutcome.of(video))


def _sweep(storage: Storage) -> None:
    """Remove what was in progress; the plan goes last, so that a sweep that dies is repeated."""
    prefixes = ("work/", "units/", STAGED_PREFIX)
    for key in (key for prefix in prefixes for key in storage.list(prefix)):
        if is_own_key(key):
            storage.delete(key)
    if isinstance(storage, LocalStorage):  # a bucket has no folders that could stay behind
        remove_temporaries(storage)
        for folder in (Path(storage.uri) / prefix for prefix in prefixes):
            for empty in (*folder.glob("*"), folder):
                with contextlib.suppress(OSError):  # not empty, or a file: then it is somebody's
                    empty.rmdir()
    storage.delete(PLAN_KEY)


def _record(
    run: RunContext | None, cfg: IngestConfig, offer: _Offer, latest: DatasetVersion, report: IngestReport
) -> None:
    if run is None:
        return
    digests = sorted({*offer.settled, *(video.digest for video in offer.videos)})
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    run.add_input("videos", _named(cfg), digest, licence=cfg.source_licence)
    for part in latest.licences:
        run.add_input(part.part, part.source, part.sha256, licence=part.licence)
    run.add_output("dataset", report.dataset, f"version {report.version}")
    run.set("treated", report.treated)
    run.set("rejects", report.rejects)
