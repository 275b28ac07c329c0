"""Run native code in a child process that can be killed: by deadline, by memory, or because it crashed by itself.

The child imports ``module:factory``, calls ``factory(**kwargs)`` once, then answers calls one at a time over a pipe.
It dies with its parent (PR_SET_PDEATHSIG), so that kill -9 of the parent leaves no orphan. Only our own two
processes speak over the pipe; nothing from outside is ever unpickled.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from infra.errors import ProjectError
from infra.lifeline import die_with

POLL_S = 0.2
KILL_S = 10.0
"""Seconds for a killed child to be gone."""
FIRST_FOR_THE_KERNEL = "800"
"""The child's oom_score_adj: where memory runs out, the kernel takes it and not its parent."""


class SandboxError(ProjectError):
    """A call ended the child process."""


class SandboxTimeout(SandboxError):
    """The call passed its deadline; the child was killed."""


class SandboxMemory(SandboxError):
    """The call passed the memory limit; the child was killed."""


class SandboxDied(SandboxError):
    """The child died by itself (a crash in native code, or somebody killed it)."""


class Sandbox:
    """A callable in a child process.

    Args:
        factory: ``package.module:function``, imported in the child.
        kwargs: keyword arguments of the factory.
        memory_limit_bytes: resident memory at which the child is killed.
        recycle_after: calls after which the child is replaced (native leaks stay bounded).
        start_timeout_s: seconds for the factory to finish.
    """

    def __init__(
        self,
        factory: str,
        kwargs: dict[str, Any] | None = None,
        *,
        memory_limit_bytes: int,
        recycle_after: int = 64,
        start_timeout_s: float = 300.0,
    ) -> None:
        self._factory, self._kwargs = factory, kwargs or {}
        self._memory_limit, self._recycle_after = memory_limit_bytes, recycle_after
        self._start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._calls = 0

    def call(self, argument: Any, *, deadline_s: float) -> Any:
        """Return ``callable(argument)`` as computed in the child.

        Raises:
            SandboxTimeout, SandboxMemory, SandboxDied: the child is gone; the next call starts a new one.
            Exception: whatever the callable raised, with the child's traceback as a note.
        """
        self.start()
        self._calls += 1
        self._send(argument)
        return self._receive(deadline_s)

    def start(self) -> None:
        """Start the child, unless there is one that has not done its share of calls; it has then made its worker.

        Raises as ``call``, of the factory.
        """
        if self._calls >= self._recycle_after:
            self.close()
        if self._child is None:
            self._start()

    def close(self) -> None:
        """End the child, if there is one."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # asleep in the kernel (a dead NFS server): let it be
                self._child.wait(KILL_S)
        self._child, self._pipe, self._calls = None, None, 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.pid if self._child else None

    def _start(self) -> None:
        ours, theirs = _pipe()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "infra.sandbox", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # native libraries chat on stdout; stderr stays for real trouble
        )
        theirs.close()
        self._pipe = ours
        try:
            self._send((self._factory, self._kwargs))
            self._receive(self._start_timeout_s)
        except BaseException:
            self.close()  # a child without its worker can answer nothing
            raise

    def _send(self, message: Any) -> None:
        assert self._pipe is not None  # set by _start
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._died() from error

    def _receive(self, deadline_s: float) -> Any:
        assert self._pipe is not None  # set by _start
        end = time.monotonic() + deadline_s
        while not self._pipe.poll(POLL_S):
            if time.monotonic() > end:
                self.close()
                raise SandboxTimeout(f"killed after its deadline of {deadline_s:.0f} s")
            if self._resident() > self._memory_limit:
                self.close()
                raise SandboxMemory(f"killed above its memory limit of {self._memory_limit >> 20} MiB")
        try:
            error, result = self._pipe.recv()
        except (EOFError, OSError) as broken:
            raise self._died() from broken
        if error is not None:
            raise error
        return result

    def _resident(self) -> int:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(self.pid).memory_info().rss)
        return 0

    def _died(self) -> SandboxDied:
        code = self._child.wait() if self._child else None
        self.close()
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return SandboxDied(f"the worker process died ({how})")


def _pipe() -> tuple[Connection, Connection]:
    from multiprocessing import Pipe

    return Pipe(duplex=True)


def _child_main(handle: int, parent: int) -> None:
    die_with(parent, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_FOR_THE_KERNEL)
    pipe = Connection(handle)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        factory, kwargs = pipe.recv()
        answer, function = _attempt(lambda: _load(factory)(**kwargs))
        pipe.send((answer, None))
        while True:
            argument = pipe.recv()
            pipe.send(_attempt(lambda: function(argument)))  # noqa: B023 - called at once


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _attempt(work: Any) -> tuple[BaseException | None, Any]:
    try:
        return None, work()
    except Exception as error:  # handed to the caller, whatever it is
        error.add_note("in the sandbox: " + "".join(traceback.format_exception(error)).strip())
        return error, None


if __name__ == "__main__":
    _child_main(int(sys.argv[1]), int(sys.argv[2]))
