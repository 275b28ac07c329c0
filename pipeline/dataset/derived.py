"""What runs made of a dataset's faces: features, pictures, scores. Lineage names the runs; endings, the files."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.errors import StorageError
from infra.progress import PROGRESS_FILE
from infra.run import CONFIG_FILE, RUN_FILE, RunEntry, RunRecord, descendants, find_runs, possible_paths
from pipeline.dataset.cached_features import cached_features, holds_features_of

logger = logging.getLogger(__name__)

DERIVED = (".npy", ".npz", ".png", ".jpg", ".jpeg", ".gif", ".csv", ".html")
"""Endings of features, pictures, scores and pages: what shows or describes single faces, and can be made again."""
WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
BESIDE = (".npy", ".png", "-cam.png", "-annotated.mp4")
"""How what `marlin extract` and `marlin predict` write beside ``<stem>.json`` ends."""


@dataclass(frozen=True, slots=True)
class DerivedReport:
    """Paths that were deleted; weights and checkpoints that learnt from it; records that still say a name."""

    deleted: tuple[str, ...]
    learnt: tuple[str, ...]
    mentions: tuple[str, ...]


def purge_derived(
    roots: Iterable[str | Path],
    dataset: str,
    versions: Collection[int],
    *,
    digests: Collection[str],
    names: Collection[str],
) -> DerivedReport:
    """Delete what was made of some versions of a dataset, as far as it lies below ``roots``.

    Deleted are: features, pictures, scores and pages in the folders of runs that read such a version; files of cached
    features of the videos, below the folders and in the caches that runs there name; what ``marlin extract`` and
    ``marlin predict`` made of the videos themselves; pages of reports that name them; and the progress of ingests into
    the dataset, which ends with a name.
    Nothing outside a run's folder is deleted on the word of its record alone, and nothing that a link points at.

    Args:
        roots: folders below which runs and features lie; absent ones are passed over.
        dataset: URI of the dataset, as ``Storage.uri``.
        versions: numbers of the versions that held a removed video, or may have.
        digests: sha256 of the removed videos, and of the files that they are cut from.
        names: their names.

    Raises:
        StorageError: a file cannot be deleted; run again to finish.
    """
    folders = [Path(root) for root in roots]
    runs = find_runs(folders)

    def is_origin(run: RunRecord, entry: RunEntry) -> bool:
        return version_of(entry) in versions and is_dataset(run, entry.place, dataset)

    learnt = descendants(runs, is_origin)
    direct = [run for run in learnt if any(is_origin(run, entry) for entry in run.inputs)]
    doomed = {file for run in direct for file in _derived_files(run)}
    doomed |= {run.folder / PROGRESS_FILE for run in runs if _is_ingest(run, dataset)}
    cached = {file for folder in folders for file in cached_features(folder, below=True)}
    cached |= {file for run in runs for cache in _cache_paths(run) for file in cached_features(cache)}
    doomed |= {file for file in cached if holds_features_of(file, digests)}
    doomed |= set(_extracted(folders, digests)) | set(_pages(folders, digests, names))
    deleted = sorted(str(path) for path in doomed if _delete(path))
    return DerivedReport(
        deleted=tuple(deleted),
        learnt=tuple(str(path) for run in learnt for path in _weights(run)),
        mentions=tuple(str(path) for run in runs for path in _records_naming(run, names)),
    )


def version_of(entry: RunEntry) -> int | None:
    """Return which dataset version a run read or made, None where the entry is something else."""
    found = re.fullmatch(r"version (\d+)", entry.digest or "")
    return int(found[1]) if found else None


def is_dataset(run: RunRecord, place: str, dataset: str) -> bool:
    """Tell whether a place that a run recorded is that of a dataset (``Storage.uri``)."""
    if "://" in dataset or "://" in place:
        return place.rstrip("/") == dataset.rstrip("/")
    return Path(dataset).resolve() in possible_paths(run, place)


def _derived_files(run: RunRecord) -> Iterator[Path]:
    for path in run.folder.rglob("*"):
        if path.suffix.lower() in DERIVED and path.is_file():
            yield path


def _cache_paths(run: RunRecord) -> set[Path]:
    """Where the cache of features may lie that a run's config names; it may be outside the run's folder."""
    cache = run.config.get("cache")
    return possible_paths(run, cache) if isinstance(cache, str) and cache else set()


def _is_ingest(run: RunRecord, dataset: str) -> bool:
    """Tell whether a run is an ingest into the dataset; one that was killed has recorded no output."""
    out = run.config.get("out")
    return run.kind == "ingest" and isinstance(out, str) and is_dataset(run, out, dataset)


def _extracted(folders: Iterable[Path], digests: Collection[str]) -> Iterator[Path]:
    """What was made of the videos themselves: ``<stem>.json``, which names the digest, and what lies beside it."""
    for folder in folders:
        for path in folder.rglob("*.json"):
            try:
                if path.name == RUN_FILE or not path.is_file() or path.stat().st_size > _LARGEST_PAGE:
                    continue
                tree = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):  # none of ours
                continue
            if isinstance(tree, dict) and tree.keys() & {"windows", "faces"} and tree.get("sha256") in digests:
                yield path
                yield from (path.with_name(path.stem + ending) for ending in BESIDE)


def _pages(folders: Iterable[Path], digests: Collection[str], names: Collection[str]) -> Iterator[Path]:
    words = [*(digest[:16] for digest in digests), *(html.escape(name) for name in names)]
    for folder in folders:
        for path in folder.rglob("*.html"):
            if path.is_file() and _says(path, words):
                yield path


_LARGEST_PAGE = 64 << 20
"""Bytes above which a file is no record or page of ours."""


def _says(path: Path, words: Collection[str]) -> bool:
    """Tell whether a text file has one of the words, not as a part of a longer file name."""
    try:
        if not words or path.stat().st_size > _LARGEST_PAGE:
            return False
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        logger.warning("%s cannot be read (%s): look yourself whether it names who goes", path, error.strerror)
        return False
    pattern = "|".join(map(re.escape, words))
    return re.search(rf"(?<![\w.-])(?:{pattern})(?![\w-])", text) is not None


def _weights(run: RunRecord) -> list[Path]:
    return sorted(path for path in run.folder.rglob("*") if path.suffix.lower() in WEIGHTS and path.is_file())


def _records_naming(run: RunRecord, names: Collection[str]) -> list[Path]:
    records = (run.folder / RUN_FILE, run.folder / CONFIG_FILE)
    return [path for path in records if path.is_file() and _says(path, names)]


def _delete(path: Path) -> bool:
    """Delete a file or link; False where there is none."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"cannot delete {path}: {error.strerror or error}; delete it and run again") from error
    return True
