"""The video written again with its faces and scores, by a process that can be killed: what is decoded is hostile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from infra.errors import MediaError
from infra.progress import Progress
from model.adapt.annotate import ScoredFace, TimedFrame, annotate
from model.adapt.task import Kind
from pipeline.config import LimitConfig
from pipeline.killable import Killable
from pipeline.media.decode import VideoFrames
from pipeline.media.probe import plain
from pipeline.media.video_file import write_video


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is drawn into which video; see ``annotate``. frames, fps: of the video, for progress and deadline."""

    video: str
    into: str
    frames: int
    fps: float
    faces: tuple[ScoredFace, ...]
    outputs: tuple[str, ...]
    kind: Kind
    warns: bool


def write_annotated(wanted: Annotation, limits: LimitConfig) -> None:
    """Write ``wanted.into``, H.264 in mp4.

    Raises:
        RejectError: the video crashed the decoder, took too long or too much memory.
        MediaError: it cannot be encoded, e.g. a side is longer than H.264 has it.
    """
    child = Killable("model.adapt.annotated_video:AnnotationWorker", {}, limits, recycle_after=1 << 62)
    try:
        child.call(wanted, length_s=wanted.frames / wanted.fps)
    finally:
        child.close()


class AnnotationWorker:
    """What runs in the child process."""

    def __call__(self, request: Annotation) -> None:
        """Do one request."""
        with Progress(f"annotate {Path(request.video).name}", request.frames, unit="frame") as progress:
            drawn = annotate(
                VideoFrames(request.video).iter_timed(), request.faces, request.outputs, request.kind,
                warns=request.warns,
            )  # fmt: skip
            try:
                write_video(Path(request.into), _counted(drawn, progress), request.fps)
            except av.error.FFmpegError as error:
                raise MediaError(f"it cannot be written as H.264: {plain(error)}") from error


def _counted(frames: Iterator[TimedFrame], progress: Progress) -> Iterator[TimedFrame]:
    for frame in frames:
        yield frame
        progress.update()
