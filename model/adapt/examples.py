"""Which clips a task can use, and what is said of the others: the join of a dataset version with labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.errors import ConfigError, DatasetError
from model.adapt.custom import LabelFile, LabelRow, custom_task, read_csv, rows_by_clip
from model.adapt.samples import ClipRow
from model.adapt.task import LabelError, Labels, Target, TaskSpec
from model.adapt.tasks import TASKS
from model.adapt_config import AdaptConfig
from pipeline.dataset.reader import DatasetReader
from pipeline.rows import DONOR

_FIELDS = ("key", "video", "name", "track", "start_frame", "frames", "split", "identity")


@dataclass(frozen=True, slots=True)
class StoredClip:
    """One manifest row, and the labels that rode with it."""

    row: ClipRow
    labels: Labels


@dataclass(frozen=True, slots=True)
class Labelled:
    """The clips that bear a target.

    ``notes`` count what was left out. ``unlabelled`` are clips without a label of the task.
    """

    task: TaskSpec
    clips: tuple[ClipRow, ...]
    unlabelled: tuple[ClipRow, ...]
    notes: tuple[str, ...]


def list_clips(reader: DatasetReader) -> list[StoredClip]:
    """Return all clips that the version lists, in its order."""
    return [
        _stored_clip(shard.unit, row, entry)
        for shard in reader.shards
        for row, entry in enumerate(reader.manifest(shard.unit).to_pylist())
    ]


def label_clips(clips: Sequence[StoredClip], cfg: AdaptConfig) -> Labelled:
    """Join clips with the labels of ``cfg.task``.

    Raises:
        ConfigError: no such task; no label file, or one that cannot be meant; nothing matches ``data.where``.
        DatasetError: clips without label, lines without clip, or labels that cannot be meant, without
            ``data.allow_partial``.
    """
    wanted = [clip for clip in clips if all(clip.labels.get(k) == v for k, v in cfg.data.where.items())]
    if not wanted:
        raise ConfigError(
            f"none of {len(clips)} clips has the labels of data.where ({_shown(cfg.data.where)}); change it"
        )
    if cfg.task == "custom":
        file = read_csv(cfg.data.labels)
        return _labelled_by_file(wanted, file, custom_task(file, cfg.data.kind), cfg)
    if cfg.task not in TASKS:
        raise ConfigError(f"there is no task '{cfg.task}'; there are {', '.join(TASKS)} and custom")
    task = TASKS[cfg.task](clip.labels for clip in wanted)
    rows = [
        (replace(clip.row, subject=clip.row.video, manipulation=_manipulation(clip.labels)), clip.labels)
        for clip in wanted
    ]
    return _read_targets(task, rows, (), cfg)


def _labelled_by_file(clips: Sequence[StoredClip], file: LabelFile, task: TaskSpec, cfg: AdaptConfig) -> Labelled:
    lines, orphans = rows_by_clip(file.rows, [(clip.row.key, clip.row.video, clip.row.name) for clip in clips])
    rows = [
        (_with_line(clip.row, line) if line else clip.row, line.labels if line else {})
        for clip in clips
        for line in (lines.get(clip.row.key),)
    ]
    return _read_targets(task, rows, orphans, cfg)


def _with_line(row: ClipRow, line: LabelRow) -> ClipRow:
    return replace(
        row,
        subject=row.key if line.names_clip else row.video,
        identity=line.identity or row.identity,
        split=line.split or row.split,
    )


def _read_targets(
    task: TaskSpec, rows: Sequence[tuple[ClipRow, Labels]], orphans: Sequence[str], cfg: AdaptConfig
) -> Labelled:
    labelled: list[ClipRow] = []
    unlabelled: list[ClipRow] = []
    damaged: list[str] = []
    for row, labels in rows:
        try:
            target: Target | None = task.read(labels)
        except LabelError as error:
            damaged.append(f"clip {row.key} of {row.name}: {error}")
            continue
        if target is None:
            unlabelled.append(row)
        else:
            labelled.append(replace(row, target=target))
    found = [
        ("labels that cannot be meant", damaged),
        ("labels without a video", orphans),
        # without a single labelled clip the caller says what is missing
        (
            "clips without a label",
            [row.name for row in unlabelled] if labelled and not _makes_fakes(labelled, cfg) else [],
        ),
    ]
    partial = [f"{len(names)} {what} (the first, {names[0]})" for what, names in found if names]
    if partial and not cfg.data.allow_partial:
        raise DatasetError(
            f"task {task.name} ({task.needs}): {', '.join(partial)}, beside {len(labelled)} labelled clips; mend them, "
            "or leave them out with data.allow_partial=true"
        )
    notes = (f"Left out: {', '.join(partial)}.",) if partial else ()
    return Labelled(task, tuple(labelled), tuple(unlabelled), notes)


def _makes_fakes(labelled: Sequence[ClipRow], cfg: AdaptConfig) -> bool:
    """Whether clips without a label serve as well: deepfakes are made of them."""
    both = len({row.target for row in labelled}) == 2
    return cfg.task == "deepfake" and (cfg.data.fakes == "self_blend" or (cfg.data.fakes == "auto" and not both))


def _stored_clip(unit: str, row: int, entry: Mapping[str, Any]) -> StoredClip:
    labels = json.loads(entry["labels"])
    donor = str(labels[DONOR]) if DONOR in labels else None
    return StoredClip(ClipRow(unit=unit, row=row, donor=donor, **{name: entry[name] for name in _FIELDS}), labels)


def _manipulation(labels: Labels) -> str:
    return str(labels.get("manipulation", "")) if labels.get("label") == "fake" else ""


def _shown(where: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in where.items())
