"""What a pretraining run folder holds beside ``run.json``, and who may write in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from infra.errors import ConfigError
from infra.paths import output_folder
from model.weights import WEIGHTS_FILE

WEIGHTS, FAILURE, PICTURES = WEIGHTS_FILE, "failure", "pictures"
LOCK, RANKS_LOCK = "lock", "ranks.lock"
"""Held by a command, and by rank 0 of a launch, which may outlive its command for as long as it takes to save."""

_held: list[IO[str]] = []  # an unreferenced file would be closed, and its lock with it


def hold_run(run_dir: Path, lock: str = LOCK) -> IO[str] | None:
    """Take a lock of the run folder for this process's life; None when another process has it.

    Two launches in one folder would mix their checkpoints. The kernel releases the lock however the process ends.
    """
    file = (run_dir / lock).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    _held.append(file)
    return file


def release_run(lock: IO[str]) -> None:
    """Give back what ``hold_run`` gave."""
    _held.remove(lock)
    lock.close()


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Hold the run folder, made if need be, for as long as a block runs.

    Raises:
        ConfigError: another process has it, or ranks of one that died, or it cannot be made.
    """
    if (lock := hold_run(output_folder(run_dir))) is None:
        raise ConfigError(busy(run_dir))
    try:
        refuse_ranks(run_dir)
        yield
    finally:
        release_run(lock)


def refuse_ranks(run_dir: Path) -> None:
    """Raise ConfigError when ranks are at work in the folder; their lock is left for rank 0 to take."""
    if not (run_dir / RANKS_LOCK).exists():
        return
    if (lock := hold_run(run_dir, RANKS_LOCK)) is None:
        raise ConfigError(busy(run_dir))
    release_run(lock)


def busy(run_dir: Path) -> str:
    """Return the sentence for a folder that another process holds."""
    return f"run folder {run_dir} is in use by another run; wait for it to end, or take another folder"
