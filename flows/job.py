"""One step of a flow as a child process: watched while it runs, and never alive after its flow run.

A cancelled, timed out or failing flow run ends the child in order (SIGTERM: training saves, Ray is stopped) and then by
force, with all that it started. A flow run that is killed takes the child along (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import psutil

from infra.errors import ProjectError
from infra.lifeline import die_with
from infra.log import PACKAGES
from infra.progress import PROGRESS_FILE

ResultT = TypeVar("ResultT")
State = dict[str, Any]

POLL_S = 1.0
GRACE_S = 150.0
"""Seconds from SIGTERM to SIGKILL: a training may take two minutes to save. A flow run that Prefect kills before that
tells the child once more, and leaves it alone to end."""


class JobDied(ProjectError):
    """The child ended without a word."""


def run_job(
    work: Callable[..., ResultT],
    *arguments: Any,
    folder: Path | None = None,
    on_progress: Callable[[State], None] | None = None,
) -> ResultT:
    """Call ``work(*arguments)`` in a child process and return what it returns, or raise what it raises.

    Its log records are handled by this process's loggers, in whose context (a flow run, say) they then appear.

    Args:
        work: a function of a module; arguments, result and errors are pickled.
        arguments: its arguments.
        folder: run folder in which it keeps ``progress.json``.
        on_progress: called with each new state of that file.

    Raises:
        JobDied: the child was killed, or crashed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs, os.getpid(), work, arguments))
    child.start()
    theirs.close()
    try:
        kind, value = _listen(ours, folder, on_progress)
        child.join(GRACE_S)
    finally:
        _end(child)
        ours.close()
    if kind == "error":
        raise value
    if kind == "silence":
        raise JobDied(f"the process of {work.__name__} ended without a word ({_reason(child.exitcode)}); run it again")
    return value


def _listen(pipe: Connection, folder: Path | None, on_progress: Callable[[State], None] | None) -> tuple[str, Any]:
    """Handle what the child says until its last word: ("result", …), ("error", …), or ("silence", None)."""
    told: State | None = None
    while True:
        if pipe.poll(POLL_S):
            try:
                kind, value = pipe.recv()
            except EOFError:
                return "silence", None
            if kind != "log":
                return kind, value
            logging.getLogger(value.name).handle(value)
        elif folder and on_progress and (state := _progress(folder)) and state != told:
            told = state
            on_progress(state)


def _progress(folder: Path) -> State | None:
    try:
        return json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _end(child: Any) -> None:
    """Let the child end, then make it end, and with it whatever it has started."""
    family = _family(child)
    if child.is_alive():
        child.terminate()
        child.join(GRACE_S)
    if child.is_alive():
        family = _family(child)
        child.kill()
        child.join()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=GRACE_S)


def _family(child: Any) -> list[psutil.Process]:
    try:
        return psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _reason(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "killed, as when memory runs out"
    return f"exit code {exit_code}"


class _PipeHandler(logging.handlers.QueueHandler):
    """Sends records through the pipe, made fit to be pickled."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(queue.SimpleQueue())
        self._pipe = pipe

    def enqueue(self, record: logging.LogRecord) -> None:
        self._pipe.send(("log", record))


def _child(pipe: Connection, parent: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    die_with(parent)
    signal.signal(signal.SIGTERM, _leave)
    handler = _PipeHandler(pipe)
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    last: tuple[str, Any]
    try:
        last = ("result", work(*arguments))
    except Exception as error:
        if not isinstance(error, ProjectError):
            logger.exception("%s failed", work.__name__)
        last = ("error", error if _is_plain(error) else ProjectError(f"{type(error).__name__}: {error}"))
    with handler.lock or contextlib.nullcontext():  # another thread may be in the middle of a record
        pipe.send(last)


def _leave(number: int, frame: Any) -> None:
    """End through every ``finally``, once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _is_plain(error: Exception) -> bool:
    """Tell whether an error is one of ours, which the other side can rebuild from its sentence."""
    return isinstance(error, ProjectError) and len(error.args) == 1
