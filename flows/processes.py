"""Processes that stay when the command that started them ends: found again, not started twice, ended whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.job import GRACE_S as SAVE_S
from infra.config import tree_digest
from infra.errors import ProjectError

logger = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
POLL_S = 0.2
LOGS = 3
"""Logs of former starts that are kept, as ``<name>.log.1`` (the last one) and on."""
GRACE_S = 20.0
"""Seconds from a part's SIGTERM to that of the children it has left. They have ``SAVE_S`` to end, then SIGKILL."""


@dataclass(frozen=True)
class Part:
    """One process to keep running.

    ``ready`` tells whether it serves; None takes being alive for it. ``limit_s`` is how long that may take.
    ``address`` is the host and port where it serves, None nowhere, and ``setting`` the setting that names the port.
    ``settings`` is what it reads besides command and environment: with any of them changed, it is outdated.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] | None = None
    limit_s: float = 120.0
    address: tuple[str, int] | None = None
    setting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Differs where the part would be started differently."""
        told = {"command": list(self.command), "environment": dict(self.environment), "settings": dict(self.settings)}
        return tree_digest(told)


class Keeper:
    """Starts and ends parts; a folder remembers them (``<name>.json``) and has their logs (``<name>.log``)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def running(self, name: str) -> psutil.Process | None:
        """Return the process of a part, None where it has ended: a number that another process has now is not it."""
        try:
            told = self._record(name)
            process = psutil.Process(int(told["pid"]))
            lives = self._is_told(name, told, process) and process.status() != psutil.STATUS_ZOMBIE
            return process if lives else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def names(self) -> list[str]:
        """Return the names of all parts that were started here and not ended."""
        names = sorted(path.stem for path in self._folder.glob("*.json"))
        return [name for name in names if self._record(name)]

    def is_outdated(self, part: Part) -> bool:
        """Tell whether a part runs that was started with other settings."""
        return self.running(part.name) is not None and self._record(part.name).get("digest") != part.digest

    def has_moved(self, part: Part) -> bool:
        """Tell whether a part runs that serves at another address than it should."""
        told = self._record(part.name).get("address", part.address)
        return self.running(part.name) is not None and tuple(told or ()) != tuple(part.address or ())

    def has_children(self, name: str) -> bool:
        """Tell whether a part runs that has started processes, which still run."""
        return len(_family_of(self.running(name))) > 1

    def ensure(self, part: Part) -> bool:
        """Start a part unless it runs, and wait until it is ready; return whether it was started.

        Raises:
            ProjectError: another process serves at its address, and would be taken for it; or it ended, or was not
                ready in time, and is not left half started.
        """
        started = self.running(part.name) is None
        if started:
            self.end(part.name)  # a training that an interrupted `down` left saving
            _check_free(part)
            self._start(part)
        end = time.monotonic() + part.limit_s
        while part.ready is not None and not part.ready():
            if self.running(part.name) is None or time.monotonic() > end:
                self.end(part.name)
                raise ProjectError(f"{part.name} does not start; {self._folder / part.name}.log tells why")
            time.sleep(POLL_S)
        if self.running(part.name) is None:
            raise ProjectError(f"{part.name} ended at once; {self._folder / part.name}.log tells why")
        return started

    def end(self, name: str) -> bool:
        """End a part and all its children, in order and then by force; return whether any of them ran.

        The record names them until all have ended, so that after a Ctrl-C another ``end`` goes on.
        """
        record, process = self._record(name), self.running(name)
        left = [found for told in record.get("family", ()) if (found := _find(told))]
        family = {*left, *_family_of(process)}
        if family:
            record = self._write(name, {**record, "family": _identities(family)})
            end_family(name, process, left)
        if self._record(name) == record:  # and not that of a part that was started meanwhile
            (self._folder / f"{name}.json").unlink(missing_ok=True)
        return bool(family)

    def _start(self, part: Part) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._put_aside(self._folder / f"{part.name}.log")
        with (self._folder / f"{part.name}.log").open("ab") as log:
            child = subprocess.Popen(
                part.command, env={**os.environ, **part.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._write(part.name, {**_identity(child.pid), "digest": part.digest, "address": part.address})

    def _record(self, name: str) -> dict[str, Any]:
        """Return what is written about a part, nothing where that is missing or no record."""
        try:
            told = json.loads((self._folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def _write(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        part = self._folder / f"{name}.part"
        part.write_text(json.dumps(record))
        part.replace(self._folder / f"{name}.json")
        return record

    def _put_aside(self, log: Path) -> None:
        """Begin a new log, and keep the last few: a service is started for years."""
        for number in range(LOGS, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                former = log if number == 1 else log.with_name(f"{log.name}.{number - 1}")
                former.replace(log.with_name(f"{log.name}.{number}"))

    def _is_told(self, name: str, told: dict[str, Any], process: psutil.Process) -> bool:
        """Tell whether a process is the one of a record; an old record has a time of day in place of ticks."""
        if "created" not in told:
            return _identity(process.pid).items() <= told.items()
        log = self._folder / f"{name}.log"
        return process.create_time() == told["created"] or os.path.samefile(f"/proc/{process.pid}/fd/1", log)


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Yield whether this process alone starts and ends parts in a folder meanwhile.

    Args:
        folder: the folder of a Keeper.
        wait: wait until no other does; otherwise yield False while one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:  # the kernel drops the lock with its process
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            logger.info("waiting for another `marlin up` or `marlin down` of %s to end", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True


def end_family(name: str, first: psutil.Process | None, others: Sequence[psutil.Process] = ()) -> None:
    """End a process, then what it leaves of its descendants and of others, in order and at last by force.

    Args:
        name: what it is called in the log.
        first: the process; None if it has ended.
        others: those that an ended one has left.
    """
    alive = _told(psutil.Process.terminate, [first] if first else [], [*others, *_family_of(first)], GRACE_S)
    if alive:  # flow runs that their worker left: training saves
        logger.info("waiting up to %.0f s for what %s was doing to save and end", SAVE_S, name)
        alive = list({*alive, *_family_of(first)})  # and one that it was just starting
        alive = _told(psutil.Process.terminate, alive, alive, SAVE_S)
    _told(psutil.Process.kill, alive, alive, GRACE_S)


def listens(address: tuple[str, int]) -> bool:
    """Tell whether anything takes connections at a host and port."""
    try:
        with socket.create_connection(address, timeout=1):
            return True
    except OSError:
        return False


def _check_free(part: Part) -> None:
    if part.address is not None and listens(part.address):
        raise ProjectError(
            f"{part.name} is not started: something else serves at {part.address[0]}:{part.address[1]}; "
            f"stop that, or set {part.setting} to another port"
        )


def _identity(pid: int) -> dict[str, Any]:
    """Return what no other process has: number, clock ticks from boot to its start, and boot. A set clock moves none.

    A time of day is no use here: it is reckoned from the boot's, which moves when the clock is set.
    """
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # field 3 and on of proc(5)
    return {"pid": pid, "ticks": int(after_name[19]), "boot": BOOT_ID.read_text().strip()}


def _find(told: dict[str, Any]) -> psutil.Process | None:
    """Return the process of an identity, None if it has ended."""
    try:
        process = psutil.Process(told["pid"])
        return process if told == _identity(process.pid) and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, psutil.NoSuchProcess):
        return None


def _family_of(process: psutil.Process | None) -> list[psutil.Process]:
    """Return a process and its descendants, nothing if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)] if process else []
    return []


def _identities(family: Iterable[psutil.Process]) -> list[dict[str, Any]]:
    found = []
    for process in family:
        with contextlib.suppress(OSError):  # it has ended
            found.append(_identity(process.pid))
    return found


def _told(
    order: Callable[[psutil.Process], None],
    targets: Sequence[psutil.Process],
    family: Sequence[psutil.Process],
    limit_s: float,
) -> list[psutil.Process]:
    """Give an order to some processes, wait at most ``limit_s``, and return which of the family are left."""
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            order(target)
    _, alive = psutil.wait_procs(family, timeout=limit_s)
    return alive
