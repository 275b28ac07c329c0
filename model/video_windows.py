"""The windows of videos, decoded, followed and cropped in a child process: a hostile video costs itself alone.

Only windows travel, 2.4 MB each; a frame of the video never does. The child forgets nothing that cannot be made again:
asked for windows of a video that it does not have open, it opens it and leaves out those that were given before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from infra.progress import Progress
from model.clip_stream import WindowPixels, WindowPlan, plan_video, window_stream
from pipeline.config import Faces, LimitConfig, TrackConfig
from pipeline.faces.backend import build_detector
from pipeline.killable import Killable
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import believed_seconds, probe
from pipeline.rejects import RejectError
from pipeline.requests import Measure
from pipeline.rows import RejectReason


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """Which windows are wanted, for all videos alike; see ``plan_video``. ``side`` of a window is in pixels."""

    crop: Literal["auto", "face", "none"]
    frames: int
    side: int
    keep_tail: bool
    faces: Faces
    track: TrackConfig
    limits: LimitConfig
    stride: int = 16


@dataclass(frozen=True, slots=True)
class Look:
    """Asks for the plan of a video's windows (WindowPlan, without frames)."""

    path: str


@dataclass(frozen=True, slots=True)
class Next:
    """Asks for the next ``count`` windows of a video of which ``given`` were given before (list of WindowPixels)."""

    path: str
    given: int
    count: int


class VideoWindows:
    """Plans and reads the windows of videos, one video at a time: a context, within which the child process lives.

    To enter it raises WeightsError or ConfigError when the detector cannot be had.
    """

    worker = "model.video_windows:WindowWorker"

    def __init__(self, settings: WindowSettings) -> None:
        """Start nothing yet."""
        self._limits = settings.limits
        self._child = Killable(self.worker, {"settings": settings}, settings.limits, recycle_after=_NEVER)
        self._looked = 0
        self._length_s = 0.0

    def __enter__(self) -> VideoWindows:
        self._child.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.close()

    def look(self, path: Path) -> WindowPlan:
        """First pass: return the plan of a video's windows.

        Raises:
            RejectError: as ``plan_video``; or the video crashed the decoder (``crashed``), took too long (``timeout``)
                or too much memory (``out_of_memory``).
        """
        if self._looked and self._looked % self._limits.recycle_videos == 0:
            self._child.close()
        self._looked += 1
        self._length_s = self._child.call(Measure(str(path)), length_s=0)
        plan: WindowPlan = self._child.call(Look(str(path)), length_s=self._length_s)
        return plan

    def batches(self, path: Path, plan: WindowPlan, size: int) -> Iterator[list[WindowPixels]]:
        """Second pass over the video that was looked at last: yield ``size`` windows at a time, the last ones fewer.

        Not in the order of the plan; errors as ``look``.
        """
        given = 0
        while given < len(plan.windows):
            found: list[WindowPixels] = self._child.call(Next(str(path), given, size), length_s=self._length_s)
            if not found:
                raise RejectError(RejectReason.DECODE_FAILED, "it was another video when it was decoded a second time")
            given += len(found)
            yield found


_NEVER = 1 << 62


class WindowWorker:
    """What runs in the child process: answers Measure, Look and Next."""

    def __init__(self, settings: WindowSettings) -> None:
        self._settings = settings
        self._detector = None if settings.crop == "none" else build_detector(settings.faces)
        self._path, self._given = "", 0
        self._windows: Iterator[WindowPixels] = iter(())

    def __call__(self, request: Measure | Look | Next) -> float | WindowPlan | list[WindowPixels]:
        """Do one request."""
        if isinstance(request, Measure):
            return believed_seconds(request.path, self._settings.limits.max_pixels)
        if isinstance(request, Look):
            return replace(self._open(request.path), chunks=None)
        return self._next(request)

    def _open(self, path: str) -> WindowPlan:
        self._windows = iter(())  # the last video's hold its decoded frames
        want = self._settings
        info, frames = probe(path, want.limits.max_pixels), VideoFrames(path)
        with Progress(f"look through {Path(path).name}", info.frames or None, unit="frame") as progress:
            plan = plan_video(
                frames, info, want.crop, detector=self._detector, track_cfg=want.track, window_frames=want.frames,
                keep_tail=want.keep_tail, chunk=want.limits.chunk_frames, stride=want.stride,
                hold_bytes=want.limits.hold_mb << 20, seen=progress.update,
            )  # fmt: skip
        self._path, self._given = path, 0
        self._windows = window_stream(plan, frames, want.side, want.limits.chunk_frames)
        return plan

    def _next(self, request: Next) -> list[WindowPixels]:
        if (self._path, self._given) != (request.path, request.given):  # a new child, after a crash
            self._open(request.path)
            for _ in itertools.islice(self._windows, request.given):
                pass
            self._given = request.given
        found = list(itertools.islice(self._windows, request.count))
        self._given += len(found)
        return found
