"""Your own task: a csv beside the dataset, joined to clips by the name of a video or of a clip.

Columns: ``path`` names a video as it was listed at ingestion (the name, its end, or the file's name alone), its
sha256, or a single clip by its key. ``identity`` and ``split`` are optional and take the place of the dataset's own.
Every other column is a label: one of text or numbers, or several of 0 and 1 (multilabel).
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from infra.errors import ConfigError, DatasetError
from model.adapt.task import Kind, LabelError, Labels, Target, TaskSpec, number, presence
from pipeline.dataset.format import KEY_PATTERN, SPLITS

MAX_BYTES = 256 << 20
MAX_CLASSES = 1000
RESERVED = ("path", "identity", "split")


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of the csv: what it names, and what it says, as it stands there; nothing where a cell is empty."""

    line: int
    path: str
    labels: Mapping[str, str]
    identity: str | None
    split: str | None

    @property
    def names_clip(self) -> bool:
        """Whether the line is about one clip and not a whole video."""
        return KEY_PATTERN.fullmatch(self.path) is not None


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A csv: the names of its label columns, and its lines."""

    names: tuple[str, ...]
    rows: tuple[LabelRow, ...]


def read_csv(path: str | Path) -> LabelFile:
    """Read a label file.

    Raises:
        ConfigError: absent, too large, no csv in UTF-8, without ``path`` or any label, a name twice, or no such split.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"label file {file} does not exist; set data.labels to a csv with a column 'path' and labels")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"label file {file} is larger than {MAX_BYTES >> 20} MiB; name the csv of labels")
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, strict=True)
            columns = list(reader.fieldnames or ())
            _check_columns(file, columns)
            names = [name for name in columns if name not in RESERVED]
            rows = [_row(file, reader.line_num, entry, names) for entry in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"label file {file} is no csv in UTF-8 ({error})") from error
    seen: dict[str, int] = {}
    for row in rows:
        if row.path in seen:
            raise ConfigError(f"{file} names {row.path} in lines {seen[row.path]} and {row.line}; keep one of them")
        seen[row.path] = row.line
    if not rows:
        raise ConfigError(f"label file {file} has a head and no line below it")
    return LabelFile(tuple(names), tuple(rows))


def custom_task(file: LabelFile, kind: Kind | None = None) -> TaskSpec:
    """Return the task that a csv describes; ``kind`` None takes what its columns look like.

    Several columns are multilabel. One column of 0 and 1 is binary, of up to 20 whole numbers or of text multiclass, of
    other numbers regression. Of classes that are all numbers, 1, 1.0 and 01 are one, named as it is spelled shortest;
    values that are not finite are none.

    Raises:
        ConfigError: the columns do not fit the kind asked for.
    """
    names = file.names
    values = {value for row in file.rows if row.labels and not _says_nothing(value := row.labels[names[0]])}
    numeric = {_as_number(value) for value in values}
    kind = kind or _guess(names, numeric)
    if (kind == "multilabel") != (len(names) > 1) and not (kind == "multilabel" and numeric <= {0.0, 1.0}):
        raise ConfigError(
            f"a {kind} task cannot have the label columns {', '.join(names)}; drop some, or change data.kind"
        )
    if kind == "multiclass":
        return _classes(names[0], values)
    if kind == "binary" and not numeric <= {0.0, 1.0}:
        raise ConfigError(f"a binary task needs 0 and 1 in column '{names[0]}'; take data.kind=multiclass")
    read_one = number if kind == "regression" else presence

    def read(labels: Labels) -> Target | None:
        found = [read_one(labels, name) for name in names]
        return None if None in found else tuple(value for value in found if value is not None)

    return TaskSpec("custom", kind, names, read, f"column {', '.join(names)} of the csv")


def rows_by_clip(
    rows: Iterable[LabelRow], clips: Iterable[tuple[str, str, str]]
) -> tuple[dict[str, LabelRow], list[str]]:
    """Join lines to clips.

    Args:
        rows: of the csv.
        clips: (key, video digest, name of the video) of every clip.

    Returns:
        clip key → its line (one that names the clip wins over one that names its video), and the paths of the lines
        that no clip belongs to.

    Raises:
        DatasetError: a path fits two different videos, or two lines name one video.
    """
    clips = list(clips)
    by_name: dict[str, set[str]] = defaultdict(set)
    for _, video, name in clips:
        parts = PurePosixPath(name).parts
        for start in range(len(parts)):
            by_name["/".join(parts[start:])].add(video)
        by_name[video].add(video)
    of_clip = {row.path: row for row in rows if row.names_clip}
    of_video: dict[str, LabelRow] = {}
    keys = {key for key, _, _ in clips}
    orphans = [path for path in of_clip if path not in keys]
    for row in rows:
        if row.names_clip:
            continue
        found = by_name.get(str(PurePosixPath(row.path)), set())
        if len(found) > 1:
            raise DatasetError(
                f"line {row.line} names {row.path}, which {len(found)} videos end in; write more of the path"
            )
        if not found:
            orphans.append(row.path)
        for video in found:
            other = of_video.setdefault(video, row)
            if other is not row:
                raise DatasetError(
                    f"lines {other.line} and {row.line} name one video ({other.path} and {row.path}); keep one of them"
                )
    joined = {key: line for key, video, _ in clips if (line := of_clip.get(key) or of_video.get(video)) is not None}
    return joined, orphans


def _check_columns(file: Path, columns: list[str]) -> None:
    if "path" not in columns:
        raise ConfigError(f"label file {file} has no column 'path' (it has {', '.join(columns[:8]) or 'none'})")
    if not set(columns) - set(RESERVED):
        raise ConfigError(f"label file {file} has no label column beside {', '.join(columns)}")
    if len(set(columns)) < len(columns):
        raise ConfigError(f"label file {file} has a column twice; rename one")


def _row(file: Path, line: int, entry: Mapping[str | None, str | None], names: list[str]) -> LabelRow:
    if None in entry or None in entry.values():
        raise ConfigError(f"line {line} of {file} has another number of columns than its head")
    cells = {str(name): str(value).strip() for name, value in entry.items()}
    split = cells.get("split") or None
    if split not in (None, *SPLITS):
        raise ConfigError(f"line {line} of {file} has split {split!r}; known are {', '.join(SPLITS)}")
    labels = {name: cells[name] for name in names if cells[name]}
    return LabelRow(
        line, cells["path"], labels if len(labels) == len(names) else {}, cells.get("identity") or None, split
    )


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _guess(names: tuple[str, ...], numeric: set[float | None]) -> Kind:
    if len(names) > 1:
        return "multilabel"
    if numeric <= {0.0, 1.0}:
        return "binary"
    if None in numeric or (len(numeric) <= 20 and all(float(value or 0).is_integer() for value in numeric)):
        return "multiclass"
    return "regression"


def _says_nothing(text: str) -> bool:
    """Whether it is a number and not finite."""
    return not math.isfinite(_as_number(text) or 0.0)


def _classes(name: str, values: set[str]) -> TaskSpec:
    are_numbers = None not in map(_as_number, values)

    def meant(value: str) -> float | str:
        return float(value) if are_numbers else value

    spelled = {meant(value): value for value in sorted(values, key=lambda value: (-len(value), value))}
    if len(spelled) > MAX_CLASSES:
        raise ConfigError(
            f"column '{name}' has {len(spelled)} different values; a multiclass task has {MAX_CLASSES} at most"
        )
    order = sorted(spelled.values(), key=lambda value: (_as_number(value) is None, _as_number(value) or 0.0, value))
    place = {meant(value): float(k) for k, value in enumerate(order)}

    def read(labels: Labels) -> Target | None:
        value = labels.get(name)
        if value is None:
            return None
        if _says_nothing(str(value)):
            raise LabelError(f"label '{name}' is {value}, which says nothing")
        return (place[meant(str(value))],)

    return TaskSpec("custom", "multiclass", tuple(order), read, f"column {name} of the csv")
