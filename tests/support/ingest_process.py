"""An ingest as a process that can be killed, and the bytes that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.storage import open_storage

ROOT = Path(__file__).resolve().parents[2]
INGEST = """
import json, sys
from infra.errors import ProjectError
from pipeline.config import IngestConfig
from pipeline.ingest import ingest
try:
    settings = {"sources": [sys.argv[1]], "out": sys.argv[2], "shard_mb": 1, "fetch": json.loads(sys.argv[3])}
    report = ingest(IngestConfig.model_validate(settings))
except ProjectError as error:
    sys.exit(str(error))
print(report.version, report.new)
"""


class Driver:
    """An ingest of small shards in a process of its own."""

    def __init__(self, videos: Path | str, out: Path | str, fetch: dict[str, Any] | None = None, **env: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", INGEST, str(videos), str(out), json.dumps(fetch or {})],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **env},
        )

    def reaches(self, happened: Callable[[], bool], limit_s: float = 150) -> bool:
        """Wait until something happened; False when the ingest ended first."""
        end = time.monotonic() + limit_s
        while self.process.poll() is None:
            if happened():
                return True
            assert time.monotonic() < end, "the ingest neither got there nor ended"
            time.sleep(0.005)
        return False

    def finish(self, limit_s: float = 300) -> tuple[int, str]:
        """Return the exit code, and what it said on stderr."""
        _, said = self.process.communicate(timeout=limit_s)
        return self.process.returncode, said


def shards(out: Path) -> dict[str, bytes]:
    """The bytes that training reads; the temporary name of a writer that was killed is not among them."""
    store = open_storage(str(out))
    return {key: store.read(key) for folder in ("shards/", "manifests/") for key in store.list(folder)}
