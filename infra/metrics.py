"""Numbers over steps: JSON lines in the run folder are the truth, TensorBoard events are a view of them.

Keys are ``group/name(unit)``, e.g. ``loss/reconstruction``, ``time/step(s)``, ``data/clips(1/s)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"


class MetricSink:
    """Where a run's numbers go; this one keeps nothing (ranks other than 0)."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` at ``step``."""

    def close(self) -> None:
        """Flush and release files."""


class FileSink(MetricSink):
    """Appends to ``metrics.jsonl`` and writes TensorBoard events under ``tensorboard/``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:  # a kill cut the last line short; what follows begins a line of its own
            self._file.write("\n")
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` at ``step``; the line is on disk when this returns."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def close(self) -> None:
        """Flush and release files."""
        self._file.close()
        self._board.close()


def open_metrics(folder: Path, *, enabled: bool = True) -> MetricSink:
    """Return a sink into ``folder``, or one that keeps nothing when not ``enabled``."""
    return FileSink(folder) if enabled else MetricSink()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the recorded lines, one per step, in step order.

    A resumed run records the steps after its checkpoint again; the newest line of a step wins. A torn last line
    (the process was killed while writing) is left out.
    """
    path = folder / METRICS_FILE
    by_step: dict[int, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            by_step.setdefault(int(row["step"]), {}).update(row)
    return [by_step[step] for step in sorted(by_step)]
