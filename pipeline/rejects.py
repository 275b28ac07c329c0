"""The error that turns a video into a row of the report instead of stopping the job."""

from __future__ import annotations

from infra.errors import MediaError
from pipeline.rows import RejectReason


class RejectError(MediaError):
    """A video gives no clip, for a reason that is counted and reported; never retried as it stands.

    ``reason`` is what the report counts, ``detail`` one sentence for people. Both survive pickling, since the error
    crosses from a killable child process.
    """

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
