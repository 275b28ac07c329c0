"""Parse the regions of stored clips again when nothing but the parser has changed; sources are not read.

The job is that of an ingest but for its first stage: clips are taken from the dataset's shards. Every finished video
and unit is kept in ``work/`` and ``units/`` as there. No plan is written down: what is to do follows from the newest
version, which never changes, and from the new recipe.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError, DatasetError
from infra.progress import Progress
from infra.ray_session import ray_session
from infra.run import RunContext
from infra.scratch import scratch_folder
from infra.storage import Storage, open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.format import AUDIO, META, VIDEO, clip_key, work_key
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.pending import refuse_half_removed, refuse_while_planned, sweep_finished
from pipeline.dataset.reader import DatasetReader
from pipeline.dataset.rewrite import rewritten_id
from pipeline.dataset.sample import meta_to_bytes
from pipeline.dataset.tar import TarWriter
from pipeline.dataset.versions import (
    Counts,
    DatasetVersion,
    Licence,
    load_version,
    newest_version,
    next_version,
    publish_version,
    require_dataset,
)
from pipeline.dataset.work import CLIPS, OUTCOME, outcome_to_bytes, read_outcome, write_outcome
from pipeline.dataset.writer import outcome_from_row, read_done
from pipeline.faces.backend import backend_licences, parser_name
from pipeline.recipe import recipe_difference, recipe_digest, recipe_settings
from pipeline.rows import SourceVideo, VideoOutcome
from pipeline.stages import FinishedVideo, PlannedVideo

logger = logging.getLogger(__name__)

PARSER_SETTINGS = (
    "faces.parser", "faces.forehead", "weights.landmarks68", "weights.bisenet", "weights.parsenet",
)  # fmt: skip
"""Settings of the recipe that decide region maps and nothing else."""
STORED = "shard:"
"""How the path of a video begins whose clips are taken from a shard: ``shard:VERSION/UNIT``."""


@dataclass(frozen=True, slots=True)
class ReparseReport:
    """What a reparse did.

    ``version`` is the newest version now and ``counts`` its totals; ``new`` tells whether this call made it;
    ``treated`` videos came out of this call, with ``clips`` clips; ``rejects`` counts those that have none by reason,
    as before or because their parsing failed.
    """

    dataset: str
    version: int
    new: bool
    counts: Counts
    treated: int = 0
    clips: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0


def reparse(cfg: IngestConfig, run: RunContext | None = None, storage: Storage | None = None) -> ReparseReport:
    """Publish a version whose region maps come from the parser that ``cfg`` names; crops and labels stay.

    Keys change with the recipe that is part of them. Killed anywhere, the same call goes on; shards and manifests are
    the same bytes as undisturbed. When the newest version was made by this recipe already, nothing is done.

    Args:
        cfg: settings of an ingest; sources are not looked at.
        run: run folder to record inputs, outputs and progress in.
        storage: the store of ``cfg.out``; opened when not given.

    Raises:
        ConfigError: more than the parser differs from the settings that made the dataset; the sentence names it.
        DatasetError: no version is there, another process writes the dataset, an ingest is unfinished, or the dataset
            is damaged.
        WeightsError: the parser's weights cannot be had.
        StorageError: the disk or the store refuses; run again to continue.
    """
    start = time.monotonic()
    storage = storage or open_storage(cfg.out)
    recipe = recipe_digest(cfg)
    require_dataset(storage)
    with writer_lock(storage):
        latest = newest_version(storage)
        refuse_half_removed(storage, latest)
        refuse_while_planned(storage, latest, "parse it anew")
        sweep_finished(storage, latest)
        if latest.recipe_digest == recipe:
            logger.info("version %d was made with this parser already", latest.version)
            return ReparseReport(storage.uri, latest.version, False, latest.counts)
        _check_recipe(latest, cfg)
        ids = {entry.unit: rewritten_id([entry], f"reparse {recipe}") for entry in latest.units}
        finished = _treat(_pending(storage, latest, ids), cfg, recipe, storage, run)
        made = _publish(storage, latest, cfg, recipe, list(ids.values()))
    if run is not None:
        run.add_input("dataset", storage.uri, f"version {latest.version}", licence="; ".join(latest.source_licences))
        for part in made.licences:
            run.add_input(part.part, part.source, part.sha256, licence=part.licence)
        run.add_output("dataset", storage.uri, f"version {made.version}")
    rejects = Counter(video.reject for video in finished if video.reject)
    return ReparseReport(
        storage.uri,
        made.version,
        True,
        made.counts,
        treated=len(finished),
        clips=sum(video.clips for video in finished),
        rejects=dict(sorted(rejects.items())),
        wall_s=round(time.monotonic() - start, 2),
    )


class TakeClips:
    """Take one video's clips from a shard, under their new keys → ``work/<unit>/<video>.clips.tar``.

    A video without clips stays the reject that it was: its outcome is written, and it is finished. Needs no time worth
    speaking of. Raises CorruptShardError and StorageError.
    """

    takes = PlannedVideo

    def __init__(self, cfg: IngestConfig, recipe: str, storage: Storage) -> None:
        self._storage, self._recipe, self._parser = storage, recipe, parser_name(cfg.faces)
        self._scratch = scratch_folder()
        self._reader: DatasetReader | None = None

    def __call__(self, planned: PlannedVideo) -> PlannedVideo:
        """Treat one video, unless its result is there."""
        unit, digest = planned.unit, planned.video.digest
        key = work_key(unit, digest, CLIPS)
        if self._storage.exists(key) or read_outcome(self._storage, unit, digest):
            return planned
        version, _, stored = planned.video.path.removeprefix(STORED).partition("/")
        reader = self._opened(int(version))
        (outcome,) = (outcome_from_row(row) for row in reader.videos(stored).to_pylist() if row["video"] == digest)
        if not outcome.clips:
            write_outcome(self._storage, unit, outcome)
            return planned
        path = self._scratch / f"{digest}.{CLIPS}"
        try:
            self._write(reader, stored, outcome, path)
            self._storage.upload(path, key)
        finally:
            path.unlink(missing_ok=True)
        return planned

    def _write(self, reader: DatasetReader, stored: str, outcome: VideoOutcome, path: Any) -> None:
        with TarWriter(path) as tar:
            for row, video in enumerate(reader.manifest(stored)["video"].to_pylist()):
                if video != outcome.video:
                    continue
                clip = reader.read_clip(stored, row)
                key = clip_key(video, clip.meta.track, clip.meta.start_frame, self._recipe)
                changes = {"key": key, "recipe": self._recipe, "parser": self._parser}
                tar.add(key + META, meta_to_bytes(clip.meta.model_copy(update=changes)))
                tar.add(key + VIDEO, clip.mp4)
                if clip.audio is not None:
                    tar.add(key + AUDIO, clip.audio)
            tar.add(OUTCOME, outcome_to_bytes(outcome))

    def _opened(self, version: int) -> DatasetReader:
        if self._reader is None or self._reader.version.version != version:
            self._reader = DatasetReader(self._storage, load_version(self._storage, version))
        return self._reader


def _check_recipe(latest: DatasetVersion, cfg: IngestConfig) -> None:
    other = [
        told
        for told in recipe_difference(latest.recipe, recipe_settings(cfg))
        if told.partition(" (")[0] not in PARSER_SETTINGS
    ]
    if other:
        raise ConfigError(
            f"parsing dataset {cfg.out} anew takes the settings that made it, but for the parser's; set back "
            f"{', '.join(other)}, or ingest into another --out"
        )


def _pending(storage: Storage, latest: DatasetVersion, ids: dict[str, str]) -> list[PlannedVideo]:
    """Return the videos of the units that have no done marker yet."""
    reader = DatasetReader(storage, latest)
    planned = []
    for unit, made in ids.items():
        if read_done(storage, made) is None:
            path = f"{STORED}{latest.version}/{unit}"
            rows = reader.videos(unit).select(["video", "name", "bytes"]).to_pylist()
            planned += [
                PlannedVideo(made, len(rows), SourceVideo(row["video"], path, row["name"], row["bytes"]))
                for row in rows
            ]
    return planned


def _treat(
    videos: Sequence[PlannedVideo], cfg: IngestConfig, recipe: str, storage: Storage, run: RunContext | None
) -> list[FinishedVideo]:
    if not videos:
        return []
    from pipeline.graph import treat_videos  # Ray is loaded when there is work, and only then

    finished = []
    with Progress("reparse", len(videos), unit="video", folder=run.dir if run else None) as progress, ray_session():
        for video in treat_videos(videos, cfg, recipe, storage, clips_from=TakeClips):
            finished.append(video)
            result = f"rejected: {video.reject}" if video.reject else f"{video.clips} clips"
            progress.update(1, f"{video.name}: {result}")
    return finished


def _publish(
    storage: Storage, latest: DatasetVersion, cfg: IngestConfig, recipe: str, units: Sequence[str]
) -> DatasetVersion:
    done = [entry for entry in (read_done(storage, unit) for unit in units) if entry is not None]
    if len(done) != len(units):
        raise DatasetError(f"{len(units) - len(done)} units of {storage.uri} were not completed; run again")
    made = next_version(
        latest,
        done,
        "reparse",
        recipe=recipe_settings(cfg),
        recipe_digest=recipe,
        faces=cfg.faces.kind,
        licences=tuple(Licence.model_validate(part) for part in backend_licences(cfg.faces)),
    )
    publish_version(storage, made)
    sweep_finished(storage, made)
    return made
