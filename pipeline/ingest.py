"""Ingestion from end to end: list, plan, treat what is new, publish one version. Every step can be repeated."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import ConfigError, DatasetError
from infra.progress import Progress
from infra.ray_session import ray_session
from infra.run import RunContext
from infra.storage import LocalStorage, Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.format import PLAN_KEY, manifest_key, shard_key, videos_key
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.versions import Counts, DatasetVersion, Licence, latest_version, publish_version
from pipeline.dataset.writer import read_done
from pipeline.faces.backend import backend_licences
from pipeline.ingest_metrics import IngestMetrics
from pipeline.plan import Plan, plan_units, read_plan, write_plan
from pipeline.recipe import recipe_difference, recipe_digest, recipe_settings
from pipeline.rows import RejectReason, SourceVideo
from pipeline.sources.folder import identify, is_inside, list_videos, printable, unreadable_digest
from pipeline.sources.split import assign_split
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


def ingest(cfg: IngestConfig, run: RunContext | None = None) -> IngestReport:
    """Bring the dataset up to date with its sources.

    Videos that some unit of the newest version covers are not decoded again. A plan that an earlier ingest left
    unfinished is finished first and becomes a version of its own. With nothing new no version is made.

    Args:
        cfg: sources, settings, and where the dataset is.
        run: run folder to record inputs, outputs and progress in.

    Raises:
        ConfigError: no source, an absent one, nothing in it that looks like a video, a dataset inside its own source,
            or settings that differ from those that made the dataset.
        DatasetError: the dataset is damaged, or another ingest writes it.
        StorageError: the store refuses (disk full, say). The last version stays intact; run again to continue.
    """
    start = time.monotonic()
    _check_sources(cfg)
    storage = open_storage(cfg.out)
    with IngestMetrics.exported(cfg.metrics, run.dir if run else None) as metrics, writer_lock(storage):
        before = latest_version(storage)
        recipe = recipe_digest(cfg)
        _check_recipe(before, cfg, recipe)
        finished = list(_finish_old_plan(storage, cfg, before, recipe, run, metrics))
        listed = _list(cfg, run)
        latest = latest_version(storage)
        if not listed and latest is None:
            raise ConfigError(f"no video was found in {', '.join(map(printable, cfg.sources))}; no dataset was made")
        units = plan_units(listed, _known(storage, latest), recipe, cfg.shard_mb * 1_000_000)
        if units:
            plan = Plan(version=latest.version + 1 if latest else 1, recipe_digest=recipe, units=units)
            write_plan(storage, plan)
            finished += _carry_out(storage, cfg, plan, latest, run, metrics)
        latest = latest_version(storage)
        if latest is not None:
            metrics.succeeded(latest.version)
    if latest is None:  # a plan with units always ends in a version
        raise DatasetError(f"{storage.uri} has no version after its ingest; run again")
    made = before is None or latest.version > before.version
    if not made:
        logger.info("nothing new in %d videos; version %d stays the newest", len(listed), latest.version)
    rejects = Counter(video.reject for video in finished if video.reject)
    report = IngestReport(
        dataset=storage.uri,
        version=latest.version,
        new=made,
        counts=latest.counts,
        listed=len(listed),
        treated=len(finished),
        clips=sum(video.clips for video in finished),
        rejects=dict(sorted(rejects.items())),
        wall_s=round(time.monotonic() - start, 2),
    )
    _record(run, cfg, listed, latest, report)
    return report


def _check_sources(cfg: IngestConfig) -> None:
    if not cfg.sources:
        raise ConfigError("no source is given; name folders or video files: marlin ingest SOURCE... --out DATASET")
    for source in cfg.sources:
        if not Path(source).exists():
            raise ConfigError(f"source {printable(source)} does not exist; give a folder of videos or a video file")
        if "://" not in cfg.out and Path(source).is_dir() and is_inside(cfg.out, source):
            raise ConfigError(
                f"the dataset {cfg.out} lies inside its source {printable(source)}; put it elsewhere (out=…)"
            )


def _check_recipe(latest: DatasetVersion | None, cfg: IngestConfig, recipe: str) -> None:
    if latest is not None and latest.recipe_digest != recipe:
        changed = recipe_difference(latest.recipe, recipe_settings(cfg))
        raise ConfigError(
            f"dataset {cfg.out} was made with other settings: {', '.join(changed)}; "
            "set them back, or choose another --out for the new ones"
        )


def _list(cfg: IngestConfig, run: RunContext | None) -> list[SourceVideo]:
    """List and identify the videos of all sources, splits assigned."""
    files = list(list_videos(cfg.sources))
    videos = []
    with Progress("identify", len(files), unit="video", folder=run.dir if run else None) as progress:
        for file in files:
            videos.append(assign_split(identify(file), cfg.split, cfg.seed))
            progress.update(1, file.name)
    return videos


def _known(storage: Storage, latest: DatasetVersion | None) -> set[str]:
    """Digests that need no work. A file that could not be read, but whose content is known, is tried again."""
    known: set[str] = set()
    if latest is None:
        return known
    reader = DatasetReader(storage, latest)
    for entry in latest.units:
        table = reader.videos(entry.unit).select(["video", "name", "reject"])
        known |= {
            row["video"]
            for row in table.to_pylist()
            if row["reject"] != RejectReason.UNREADABLE or row["video"] == unreadable_digest(row["name"])
        }
    return known


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
    listed = {entry.unit for entry in latest.units} if latest else set()
    if plan.version >= due:
        logger.warning("an unfinished plan for other settings is dropped: %d videos", plan.videos)
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
    version = DatasetVersion(
        version=plan.version,
        parent=parent.version if parent else None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        recipe=recipe_settings(cfg),
        recipe_digest=plan.recipe_digest,
        faces=cfg.faces.kind,
        licences=tuple(Licence.model_validate(part) for part in backend_licences(cfg.faces)),
        source_licence=cfg.source_licence,
        units=(*(parent.units if parent else ()), *done),
    )
    publish_version(storage, version)
    _sweep(storage)
    return finished


def _sweep(storage: Storage) -> None:
    """Remove what was in progress; the plan goes last, so that a sweep that dies is repeated."""
    for prefix in ("work/", "units/"):
        for key in storage.list(prefix):
            storage.delete(key)
        if isinstance(storage, LocalStorage):  # a bucket has no folders that could stay behind
            shutil.rmtree(Path(storage.uri) / prefix, ignore_errors=True)
    storage.delete(PLAN_KEY)


def _record(
    run: RunContext | None, cfg: IngestConfig, listed: list[SourceVideo], latest: DatasetVersion, report: IngestReport
) -> None:
    if run is None:
        return
    digest = hashlib.sha256("\n".join(sorted(video.digest for video in listed)).encode()).hexdigest()
    run.add_input("videos", ", ".join(map(printable, cfg.sources)), digest, licence=cfg.source_licence)
    for part in latest.licences:
        run.add_input(part.part, part.source, part.sha256, licence=part.licence)
    run.add_output("dataset", report.dataset, f"version {report.version}")
    run.set("treated", report.treated)
    run.set("rejects", report.rejects)
