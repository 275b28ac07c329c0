"""A local folder for files in the making, which does not outlive its process for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_PREFIX = "marlin-ingest-"
_YOUNG_S = 600.0


def scratch_folder() -> Path:
    """Make a folder of this process's own, and remove those whose process was killed.

    Each folder holds a lock that the kernel drops with its process, so a live one is never taken for dead, in
    whatever container its process lives.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)  # held, on purpose, until the process ends
    return folder


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.getuid() or folder.is_symlink() or time.time() - status.st_ctime < _YOUNG_S:
                continue
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, or not ours to judge
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
