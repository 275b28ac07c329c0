"""A worker in a child process with bounds on what one video may cost; what a video costs beyond them is a reject."""

from __future__ import annotations

import logging
from typing import Any

from infra.errors import ProjectError
from infra.sandbox import Sandbox, SandboxError, SandboxMemory, SandboxTimeout
from pipeline.config import LimitConfig
from pipeline.rejects import RejectError
from pipeline.rows import RejectReason

logger = logging.getLogger(__name__)


class Killable:
    """Asks a worker that can be killed.

    Args:
        worker: ``package.module:Class``.
        kwargs: keyword arguments of the class.
        limits: deadlines, memory, attempts.
        recycle_after: calls after which the child is replaced.
    """

    def __init__(self, worker: str, kwargs: dict[str, Any], limits: LimitConfig, *, recycle_after: int) -> None:
        self._limits = limits
        self._child = Sandbox(
            worker, kwargs, memory_limit_bytes=limits.memory_mb << 20, recycle_after=recycle_after
        )  # fmt: skip

    def call(self, request: Any, *, length_s: float) -> Any:
        """Return the worker's answer; ``length_s`` of the video sets the deadline.

        A child that has raised what nobody foresaw is not asked again: a CUDA fault, for one, stays with its process.

        Raises:
            RejectError: ``crashed``, ``timeout`` or ``out_of_memory``: the request ended the child process, as often as
                the limits allow.
            ProjectError: what the worker raised; or it cannot start, and no video is to blame.
            Exception: what the worker raised, each time in a new child, as often as the limits allow.
        """
        deadline_s = self._limits.deadline_base_s + self._limits.deadline_per_s * length_s
        for attempt in range(1, self._limits.attempts + 1):
            self.start()
            try:
                return self._child.call(request, deadline_s=deadline_s)
            except Exception as error:
                if isinstance(error, ProjectError) and not isinstance(error, SandboxError):
                    raise
                self._child.close()
                failed = error
                logger.warning("attempt %d of %d: %s: %s", attempt, self._limits.attempts, type(error).__name__, error)
        if isinstance(failed, SandboxError):
            raise RejectError(_reason(failed), f"{failed}; attempts: {self._limits.attempts}") from failed
        raise failed

    def start(self) -> None:
        """Start the worker, unless it is there; ProjectError when it cannot, as often as the limits allow."""
        for attempt in range(1, self._limits.attempts + 1):
            try:
                return self._child.start()
            except SandboxError as error:
                failed = error
                logger.warning("start %d of %d: %s", attempt, self._limits.attempts, error)
            except ProjectError:
                raise
            except Exception as error:
                raise ProjectError(f"a worker process cannot start: {type(error).__name__}: {error}") from error
        raise ProjectError(f"a worker process cannot start: {failed}") from failed

    def close(self) -> None:
        """End the child; the next call starts another."""
        self._child.close()


def _reason(error: SandboxError) -> RejectReason:
    if isinstance(error, SandboxTimeout):
        return RejectReason.TIMEOUT
    return RejectReason.OUT_OF_MEMORY if isinstance(error, SandboxMemory) else RejectReason.CRASHED
