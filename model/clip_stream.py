"""From a video file to the windows that the network sees: whole frames or the face of each track, in one stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from model.window import plan_windows
from pipeline.config import TrackConfig
from pipeline.faces.backend import FaceDetector
from pipeline.faces.crop import crop_square
from pipeline.faces.filters import judge_tracks
from pipeline.faces.scan import Scan, scan_faces
from pipeline.media.clock import StageClock
from pipeline.media.decode import VideoFrames
from pipeline.rejects import RejectError
from pipeline.rows import FaceTrack, RejectReason, VideoInfo

CropMode = Literal["face", "none"]

FACE_CROP_SIDE = 224
_SQUARE_TOLERANCE = 1.1
_FILLED = 0.5
HOLD_BYTES = 256 << 20
"""By default a video whose decoded frames take no more than this is decoded once and kept for the second pass."""


@dataclass(frozen=True, slots=True)
class PlannedWindow:
    """One window: ``indices`` are frames of the video, rising, repeats allowed; ``track`` is None for whole frames."""

    track: int | None
    indices: tuple[int, ...]


class WindowPixels(NamedTuple):
    """A window's place in the plan and its frames, uint8 RGB (T, side, side, 3)."""

    row: int
    frames_THWC: np.ndarray


@dataclass(frozen=True)
class WindowPlan:
    """All windows of one video, by track and time, and the squares to crop: frame → x0 y0 x1 y1 for each track.

    seconds_F: when each frame is shown, which at a varying rate is not its number over ``info.fps``.
    """

    crop: CropMode
    seconds_F: np.ndarray
    windows: tuple[PlannedWindow, ...]
    tracks: tuple[FaceTrack, ...]
    info: VideoInfo
    chunks: list[tuple[int, np.ndarray]] | None

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return len(self.seconds_F)

    def seconds(self, frame: int) -> float:
        """Return when a frame is shown; the one behind the last is the video's end, a mean frame later."""
        if frame < self.frames:
            return float(self.seconds_F[frame])
        return float(self.seconds_F[-1]) + 1 / self.info.fps

    def square(self, track: int | None, frame: int) -> np.ndarray:
        """Return the square of one frame: of the track's path, or around the whole frame."""
        if track is None:
            return _whole_frame(self.info)
        path = self.tracks[track]
        square_4: np.ndarray = path.crops_F4[frame - path.start]
        return square_4


def plan_video(
    frames: VideoFrames,
    info: VideoInfo,
    crop: Literal["auto", "face", "none"],
    *,
    detector: FaceDetector | None,
    track_cfg: TrackConfig,
    window_frames: int,
    keep_tail: bool,
    chunk: int,
    sample_rate: int = 2,
    stride: int = 16,
    hold_bytes: int = HOLD_BYTES,
    seen: Callable[[int], None] = lambda count: None,
) -> WindowPlan:
    """First pass: count the frames, find the faces where they are needed, and plan every window.

    Args:
        frames: the video's frames.
        info: what probing said of it.
        crop: whole frames, faces, or whichever fits (``is_face_crop``).
        detector: used where faces are looked for; may be None where ``crop`` is ``none``.
        track_cfg: linking, smoothing, filtering.
        window_frames: frames of a window.
        keep_tail: plan a last window that ends with the last frame.
        chunk: frames decoded at a time.
        sample_rate: frames between the frames of a window.
        stride: distance between window starts, in sampled frames.
        hold_bytes: decoded frames are kept for the second pass while all of them together take no more than this.
        seen: told the number of frames of each chunk, for progress.

    Raises:
        RejectError: nothing can be decoded; or faces are wanted and there is none (``no_face``) or none worth keeping
            (``no_track``).
    """
    cut = partial(plan_windows, frames=window_frames, sample_rate=sample_rate, stride=stride, keep_tail=keep_tail)
    chunks = _told(frames.iter_chunks(chunk), seen)
    if crop == "none" or (crop == "auto" and info.width == info.height == FACE_CROP_SIDE):
        count, held = _counted(chunks, hold_bytes)
        return WindowPlan("none", np.array(frames.seconds), _whole_windows(count, cut), (), info, held)
    if detector is None:
        raise ValueError(f"crop={crop} looks for faces and needs a detector")
    scan = scan_faces(
        chunks, detector, track_cfg, hold_bytes=hold_bytes, clock=StageClock(),
        follows_loss=lambda number: number in frames.losses,
    )  # fmt: skip
    seconds_F = np.array(frames.seconds)
    tracks = judge_tracks(scan, track_cfg, info.fps).kept
    if crop == "auto" and is_face_crop(scan, info):
        return WindowPlan("none", seconds_F, _whole_windows(scan.frames, cut), (), info, scan.held)
    if not scan.faces:
        raise RejectError(RejectReason.NO_FACE, f"no face in {scan.frames} frames; crop=none takes the whole frame")
    if not tracks:
        raise RejectError(RejectReason.NO_TRACK, "faces were found, and every track is too short, too small or too bad")
    windows = tuple(
        PlannedWindow(track.track, tuple(track.start + i for i in indices))
        for track in tracks
        for indices in cut(len(track.scores_F))
    )
    return WindowPlan("face", seconds_F, windows, tracks, info, scan.held)


def is_face_crop(scan: Scan, info: VideoInfo) -> bool:
    """Whether the frame is about square and one face fills at least half of its side on most key frames."""
    if max(info.width, info.height) > _SQUARE_TOLERANCE * min(info.width, info.height):
        return False
    boxes = [faces.boxes_N4 for _, faces in scan.key_frames]
    filled = [len(box_N4) == 1 and (box_N4[0, 2:] - box_N4[0, :2]).max() >= _FILLED * info.width for box_N4 in boxes]
    return sum(filled) > len(filled) / 2


def window_stream(plan: WindowPlan, frames: VideoFrames, side: int, chunk: int) -> Iterator[WindowPixels]:
    """Second pass: yield each window when its last frame has been cropped; not in the order of the plan.

    Holds one chunk and the windows that are open at a time: for each face in sight as many as overlap, and at most one
    more for the tail.
    """
    wanted: dict[int, list[int]] = defaultdict(list)
    for row, window in enumerate(plan.windows):
        for index in set(window.indices):
            wanted[index].append(row)
    open_windows: dict[int, np.ndarray] = {}
    chunks: Iterable[tuple[int, np.ndarray]] = plan.chunks if plan.chunks is not None else frames.iter_chunks(chunk)
    for start, frames_FHWC in chunks:
        for offset, frame_HWC in enumerate(frames_FHWC):
            index = start + offset
            crops: dict[int | None, np.ndarray] = {}
            for row in wanted.pop(index, ()):
                window = plan.windows[row]
                if window.track not in crops:
                    crops[window.track] = crop_square(frame_HWC, plan.square(window.track, index), side)
                if row not in open_windows:
                    open_windows[row] = np.empty((len(window.indices), side, side, 3), np.uint8)
                open_windows[row][[i for i, wants in enumerate(window.indices) if wants == index]] = crops[window.track]
                if index == window.indices[-1]:
                    yield WindowPixels(row, open_windows.pop(row))
    if open_windows or wanted:
        raise RejectError(RejectReason.DECODE_FAILED, "it ended earlier when it was decoded a second time")


def _told(chunks: Iterable[tuple[int, np.ndarray]], seen: Callable[[int], None]) -> Iterator[tuple[int, np.ndarray]]:
    for start, frames_FHWC in chunks:
        yield start, frames_FHWC
        seen(len(frames_FHWC))


def _counted(
    chunks: Iterable[tuple[int, np.ndarray]], hold_bytes: int
) -> tuple[int, list[tuple[int, np.ndarray]] | None]:
    """Return the number of frames and, where all of them fit ``hold_bytes``, the chunks; else None."""
    held: list[tuple[int, np.ndarray]] | None = []
    count = size = 0
    for start, frames_FHWC in chunks:
        count, size = count + len(frames_FHWC), size + frames_FHWC.nbytes
        if size > hold_bytes:
            held = None
        elif held is not None:
            held.append((start, frames_FHWC))
    return count, held


def _whole_windows(count: int, cut: Callable[[int], list[list[int]]]) -> tuple[PlannedWindow, ...]:
    return tuple(PlannedWindow(None, tuple(indices)) for indices in cut(count))


def _whole_frame(info: VideoInfo) -> np.ndarray:
    """The smallest centred square that holds the whole frame."""
    side = max(info.width, info.height)
    x0, y0 = (info.width - side) / 2, (info.height - side) / 2
    return np.array([x0, y0, x0 + side, y0 + side], np.float32)
