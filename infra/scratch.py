"""Local folders for files in the making, which do not outlive their process for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_LOCK = "lock"


def scratch_folder() -> Path:
    """Make a folder that is this process's own until it ends; see ``owned_folder``."""
    folder, _ = owned_folder(Path(tempfile.gettempdir()), "marlin-ingest-")
    return folder


def owned_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder, and remove those of this user and name whose processes were killed.

    Each folder holds a lock that the kernel drops with its process, so a live one is never taken for dead, in
    whatever container its process lives.

    Returns:
        The folder, and the handle of its lock: the folder is in use while any process has the handle open.
    """
    _sweep(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    unlocked = folder / f"{_LOCK}.new"
    handle = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    unlocked.rename(folder / _LOCK)  # never seen without being locked
    return folder, handle


def _sweep(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
                continue
            handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, or not ours to judge
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
