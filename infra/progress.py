"""Progress that a person can follow: a bar on a terminal, one line every few seconds elsewhere, a file for flows."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

PROGRESS_FILE = "progress.json"


class Progress:
    """Count work done against a total and show rate and time left.

    On a terminal it draws a bar; elsewhere it prints one line to stderr at most every ``every_s`` seconds.
    With ``folder`` it also keeps ``folder/progress.json`` (label, unit, done, total, rate, eta_s, note), replaced
    atomically, so that another process (a flow, say) can follow.

    Args:
        label: what runs, e.g. ``pretrain``.
        total: units in all; None when it is not known.
        unit: the unit's name, e.g. ``step``.
        folder: where ``progress.json`` goes; None keeps no file.
        every_s: seconds between lines.
        initial: units already done before this process started (resume).
        enabled: False shows and writes nothing (ranks other than 0).
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str,
        folder: str | Path | None = None,
        every_s: float = 5.0,
        initial: int = 0,
        enabled: bool = True,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._initial = initial
        self.note = ""
        self._every_s, self._enabled = every_s, enabled
        self._file = Path(folder) / PROGRESS_FILE if folder is not None else None
        self._start = time.monotonic()
        self._last = 0.0
        self._bar: tqdm | None = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=unit, initial=initial, dynamic_ncols=True)

    def update(self, n: int = 1, note: str = "") -> None:
        """Add ``n`` finished units; ``note`` (a loss, a file name) is shown beside the count."""
        self.done += n
        self.note = note or self.note
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(n)
        if time.monotonic() - self._last >= self._every_s:
            self._emit()

    def snapshot(self) -> dict[str, float | int | str | None]:
        """Return what ``progress.json`` holds: rates in units per second, ``eta_s`` in seconds or None."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._initial) / seconds
        eta = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        return {
            "label": self.label,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "rate": round(rate, 4),
            "eta_s": None if eta is None else round(max(eta, 0.0), 1),
            "note": self.note,
        }

    def close(self) -> None:
        """Show the last state and release the terminal line."""
        if self._enabled:
            self._emit()
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        """Show that the work has begun."""
        if self._enabled:
            self._emit()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, whatever happened."""
        self.close()

    def _emit(self) -> None:
        self._last = time.monotonic()
        state = self.snapshot()
        if self._file is not None:
            temporary = self._file.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(state))
            temporary.replace(self._file)
        if self._bar is None:
            sys.stderr.write(progress_line(state) + "\n")
            sys.stderr.flush()


def progress_line(state: dict[str, float | int | str | None]) -> str:
    """Return one readable line for a snapshot: ``pretrain 120/300 step (40%) 1.2 step/s, 2m30s left, loss 0.04``."""
    done, total, rate, eta = state["done"], state["total"], float(state["rate"] or 0), state["eta_s"]
    count = f"{done}" if total is None else f"{done}/{total}"
    share = f" ({100 * int(done or 0) // int(total)}%)" if total else ""
    pace = ""
    if rate:
        pace = f" {rate:.2f} {state['unit']}/s" if rate >= 1 else f" {1 / rate:.1f} s/{state['unit']}"
    left = f", {format_seconds(float(eta))} left" if eta is not None and done != total else ""
    note = f", {state['note']}" if state["note"] else ""
    return f"{state['label']} {count} {state['unit']}{share}{pace}{left}{note}"


def format_seconds(seconds: float) -> str:
    """Return ``1h02m``, ``2m30s`` or ``12s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
