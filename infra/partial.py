"""Files that are being fetched, kept between attempts and between runs so that a fetch goes on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from infra.errors import StorageError, TooLargeError, TransientError

_STEP = 1 << 20
_OLD_S = 7 * 86400.0
_LOCK = ".lock"
_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file: where it lies, the sha256 (hex) of its bytes, and how many there are."""

    path: Path
    sha256: str
    bytes: int


class Deadline:
    """When a fetch must be over, and whether all of them are to stop at once."""

    def __init__(self, seconds: float, stop: threading.Event | None = None) -> None:
        self._end, self._stop = time.monotonic() + seconds, stop or threading.Event()

    def check(self) -> None:
        """Raise TransientError when it is over."""
        if self._stop.is_set():
            raise TransientError("it was stopped")
        if time.monotonic() > self._end:
            raise TransientError("it took longer than fetch.max_video_s allows")

    def sleep(self, seconds: float) -> bool:
        """Wait, and return True; return False at once when the wait would end too late."""
        return time.monotonic() + seconds <= self._end and not self._stop.wait(seconds)


class Partial:
    """One file in the making: its bytes so far, and the validator (ETag or date) of the version they belong to.

    Without a validator nobody can tell whether the rest belongs to the same version, and it begins anew. Who may share
    its folder with others has ``claimed`` it.

    Args:
        path: where the bytes go; ``<path>.validator`` is beside it.
        max_bytes: more of them raise TooLargeError.
        deadline: past it, a write raises TransientError.
    """

    def __init__(self, path: Path, *, max_bytes: int, deadline: Deadline) -> None:
        self.path, self._max_bytes, self._deadline = path, max_bytes, deadline
        self._note = path.with_name(path.name + ".validator")
        self.size = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Partial:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self.path.open("a+b")
            self.validator = self._noted()
            if self.validator is None:
                self._file.truncate(0)
            self._file.seek(0)
            while chunk := self._file.read(_STEP):
                self._digest.update(chunk)
                self.size += len(chunk)
        except OSError as error:
            raise _full(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _noted(self) -> str | None:
        """Return the validator that an earlier attempt left; a damaged note is none, and the file begins anew."""
        try:
            noted = json.loads(self._note.read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return noted if isinstance(noted, str) else None

    def restart(self, validator: str | None) -> None:
        """Drop the bytes so far; what is written now belongs to the version that ``validator`` names."""
        try:
            self._note.unlink(missing_ok=True)
            self._file.truncate(0)
            self._file.seek(0)
            if validator:
                self._note.write_text(json.dumps(validator))
        except OSError as error:
            raise _full(self.path, error) from error
        self.size, self._digest, self.validator = 0, hashlib.sha256(), validator

    def expect(self, total: int | None) -> None:
        """Raise TooLargeError when the whole file is said to have more bytes than allowed."""
        if total is not None and total > self._max_bytes:
            raise TooLargeError(f"{total} bytes, and fetch.max_mb allows {self._max_bytes}")

    def write(self, data: bytes) -> None:
        """Append; TooLargeError and TransientError when a limit is passed, StorageError when the disk refuses."""
        self.expect(self.size + len(data))
        self._deadline.check()
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(self.path, error) from error
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> Fetched:
        """Return the whole file; its digest was taken on the way."""
        try:
            self._file.flush()
        except OSError as error:
            raise _full(self.path, error) from error
        return Fetched(self.path, self._digest.hexdigest(), self.size)


@contextmanager
def claimed(path: Path, deadline: Deadline) -> Iterator[None]:
    """Have a file in the making for oneself, from before its first byte until it is stored and forgotten.

    Who comes second waits. The lock (flock on ``<path>.lock``) ends with its process, so a kill leaves none behind.

    Raises:
        TransientError: another process still has it at the deadline.
        StorageError: the disk refuses, or knows no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while (lock := _try_lock(path)) is None:
            deadline.check()
            if not deadline.sleep(_WAIT_S):
                raise TransientError("another ingest is still fetching it")
    except OSError as error:
        raise _full(path, error) from error
    try:
        yield
    finally:
        os.close(lock)


def _try_lock(path: Path) -> int | None:
    """Return the open lock of a file in the making; None where another has it."""
    name = path.with_name(path.name + _LOCK)
    lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(name)):  # else who had it deleted it, and the name is another's
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(lock)
        raise
    os.close(lock)
    return None


def forget_partial(path: Path) -> None:
    """Delete a file in the making and what belongs to it."""
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink(missing_ok=True)


def sweep_partials(folder: Path, max_bytes: int) -> None:
    """Keep the newest files in the making that fit into ``max_bytes``; none older than a week stay.

    Those that another ingest has claimed stay in any case. Raises StorageError when the disk refuses.
    """
    try:
        _sweep(folder, max_bytes)
    except OSError as error:
        raise _full(folder, error) from error


def _sweep(folder: Path, max_bytes: int) -> None:
    found = []
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # its ingest is done with it
            told = path.stat()
            if stat.S_ISREG(told.st_mode):
                found.append((told.st_mtime, told.st_size, path))
    kept = 0
    for changed, size, path in sorted(found, reverse=True):
        kept += size
        if kept <= max_bytes and time.time() - changed <= _OLD_S:
            continue
        whole = path.with_name(path.name.partition(".")[0])
        if (lock := _try_lock(whole)) is not None:
            for leftover in (path, whole.with_name(whole.name + _LOCK)):
                leftover.unlink(missing_ok=True)
            os.close(lock)


def _full(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or error
    return StorageError(f"cannot keep {path} while it is fetched ({reason}); free its disk or set another fetch.cache")
