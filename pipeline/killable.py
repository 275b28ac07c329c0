"""A worker in a child process with bounds on what one video may cost; what a video costs beyond them is a reject."""

from __future__ import annotations

import logging
from typing import Any

from infra.errors import ProjectError
from infra.sandbox import Sandbox, SandboxError, SandboxMemory, SandboxTimeout
from pipeline.config import LimitConfig
from pipeline.rejects import RejectError
from pipeline.requests import Ready
from pipeline.rows import RejectReason

logger = logging.getLogger(__name__)


class Killable:
    """Asks a worker that can be killed.

    Args:
        worker: ``package.module:Class``; its instances answer ``Ready`` with anything.
        kwargs: keyword arguments of the class.
        limits: deadlines, memory, attempts.
        recycle_after: calls after which the child is replaced.
    """

    def __init__(self, worker: str, kwargs: dict[str, Any], limits: LimitConfig, *, recycle_after: int) -> None:
        self._limits = limits
        self._started = False
        self._child = Sandbox(
            worker, kwargs, memory_limit_bytes=limits.memory_mb << 20, recycle_after=recycle_after
        )  # fmt: skip

    def call(self, request: Any, *, length_s: float) -> Any:
        """Return the worker's answer; ``length_s`` of the video sets the deadline.

        Raises:
            RejectError: ``crashed``, ``timeout`` or ``out_of_memory``: the request ended the child process, as often as
                the limits allow.
            ProjectError: the worker cannot start at all; no video is to blame.
            Exception: what the worker raised.
        """
        self.start()
        try:
            return self._attempted(request, self._limits.deadline_base_s + self._limits.deadline_per_s * length_s)
        except SandboxError as error:
            reason = RejectReason.CRASHED
            if isinstance(error, SandboxTimeout):
                reason = RejectReason.TIMEOUT
            elif isinstance(error, SandboxMemory):
                reason = RejectReason.OUT_OF_MEMORY
            raise RejectError(reason, f"{error}; attempts: {self._limits.attempts}") from error

    def start(self) -> None:
        """Start the worker, unless it has been; ProjectError when it cannot."""
        if self._started:
            return
        try:
            self._attempted(Ready(), self._limits.deadline_base_s)
        except SandboxError as error:
            raise ProjectError(f"a worker process cannot start: {error}") from error
        except ProjectError:
            raise
        except Exception as error:
            raise ProjectError(f"a worker process cannot start: {type(error).__name__}: {error}") from error
        self._started = True

    def close(self) -> None:
        """End the child; the next call starts another."""
        self._child.close()

    def _attempted(self, request: Any, deadline_s: float) -> Any:
        """Ask until the child answers, with a value or an exception, but only as often as the limits allow."""
        for attempt in range(1, self._limits.attempts):
            try:
                return self._child.call(request, deadline_s=deadline_s)
            except SandboxError as error:
                logger.warning("attempt %d of %d: %s", attempt, self._limits.attempts, error)
        return self._child.call(request, deadline_s=deadline_s)
