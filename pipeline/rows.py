"""The row types that cross a boundary of the pipeline: one frozen type per boundary, never a bag."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from pydantic import BaseModel, ConfigDict

LabelValue = str | int | float | bool
DONOR = "donor"
"""The label that names whose face was put into a fake, as ``identity`` names whose head it is."""


class RejectReason(StrEnum):
    """Why a video gave no clip. A reject is data: it is counted, reported and can be retried by reason."""

    EMPTY = "empty"
    """zero bytes"""
    UNREADABLE = "unreadable"
    """the file cannot be opened (permissions, vanished)"""
    NOT_VIDEO = "not_video"
    """no video stream was found"""
    DECODE_FAILED = "decode_failed"
    """a video stream is there and its frames cannot be decoded"""
    TOO_LARGE = "too_large"
    """more pixels per frame or bytes than the recipe allows"""
    TIMEOUT = "timeout"
    """work on the video passed its deadline and was killed"""
    OUT_OF_MEMORY = "out_of_memory"
    """work on the video passed its memory limit and was killed"""
    CRASHED = "crashed"
    """work on the video ended its process, as often as the recipe allows"""
    NO_FACE = "no_face"
    """decoded, and no face was found"""
    NO_TRACK = "no_track"
    """faces were found, and every track was filtered out"""
    FETCH_FAILED = "fetch_failed"
    """its bytes could not be fetched from where the source says they are, and asking again would not help"""
    UNREACHABLE = "unreachable"
    """its server failed, was too slow or asked to wait too long; asked again on the next night"""
    REFUSED = "refused"
    """its address is one that the config does not allow"""
    REMOVED = "removed"
    """taken down: its digest is written down below removed/"""
    INTERNAL = "internal"
    """our own error; the detail names it"""


class FilterReason(StrEnum):
    """Why a track was left out."""

    TOO_SHORT = "too_short"
    TOO_SMALL = "too_small"
    LOW_SCORE = "low_score"
    BLURRED = "blurred"
    EXPOSURE = "exposure"


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a file that is one video of a dataset: seconds, and left, top, right, bottom in [0, 1] of the frame.

    ``end_s`` None reaches to the end, ``box`` None is the whole frame.
    """

    start_s: float = 0.0
    end_s: float | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One video that a source offers; its bytes have not been read.

    ``place`` says where the bytes are: a local path or ``file:`` URI, ``frames:`` and the path of a folder of frames,
    ``s3://…``, ``http(s)://…`` or ``youtube:ID``. ``name`` is the path inside its source (posix, valid UTF-8), kept for
    people. ``fingerprint`` changes when the bytes do (size and time of change, or ETag); None where the source cannot
    tell, and the bytes must be read. ``bytes`` is None where the source does not say. ``boxes`` is the digest of
    labelled boxes that are used instead of detected ones, and empty without any.
    """

    place: str
    name: str
    bytes: int | None = None
    fingerprint: str | None = None
    labels: dict[str, LabelValue] = field(default_factory=dict)
    split: str | None = None
    identity: str | None = None
    cut: Cut | None = None
    boxes: str = ""


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """One video whose bytes were read, so that its identity is known.

    ``digest`` is its identity: the sha256 (hex) of its bytes, or of ``content`` and the cut where it is a part of a
    file, and the labelled boxes where they are used. ``path`` is where workers read the bytes: a local path or
    ``file:`` URI, ``frames:`` and a folder, or ``staged:`` and a key of the dataset's own store. ``place`` is where the
    source has them, without secrets.
    ``labels`` ride along to the clips. Where the bytes could not be had, ``reject`` and ``detail`` say why, ``digest``
    stands in for theirs (``standin_digest``), and ``path`` is empty.
    """

    digest: str
    path: str
    name: str
    bytes: int
    labels: dict[str, LabelValue] = field(default_factory=dict)
    split: str | None = None
    identity: str | None = None
    cut: Cut | None = None
    place: str = ""
    content: str = ""
    """The sha256 of the bytes where it is not the digest (of a cut video); empty otherwise."""
    reject: RejectReason | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What probing says of a video.

    Width and height as shown (turned, pixels made square), frames per second, frame count as the container states it
    (it may lie), rotation counterclockwise in degrees, behind a mirroring where the file asks for one.
    """

    width: int
    height: int
    fps: float
    frames: int
    rotation: int = 0


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces in one frame.

    Boxes float32 (N, 4) x0 y0 x1 y1 in pixels, scores float32 (N,) in [0, 1], landmarks float32 (N, 5, 2) in pixels:
    right eye, left eye, nose, right and left mouth corner (the person's sides).
    """

    boxes_N4: np.ndarray
    scores_N: np.ndarray
    landmarks_N52: np.ndarray


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face through frames ``start`` .. ``start + F - 1``.

    boxes_F4: float32, the *detected* box path, interpolated between key frames, x0 y0 x1 y1 in source pixels.
    crops_F4: float32, the *smoothed square* path that is cropped, x0 y0 x1 y1; may reach outside the frame.
    landmarks_F52: float32, five points a frame in source pixels, interpolated. scores_F: float32 in [0, 1].
    """

    track: int
    start: int
    boxes_F4: np.ndarray
    crops_F4: np.ndarray
    landmarks_F52: np.ndarray
    scores_F: np.ndarray

    @property
    def end(self) -> int:
        """Frame after the last (exclusive)."""
        return self.start + len(self.scores_F)


class Quality(BaseModel):
    """How good a clip's crops are.

    score: mean detection score, [0, 1]; face_px: mean face side in source pixels; blur: mean variance of the
    Laplacian of the grey crop (higher is sharper); exposure: mean grey level of the crop, [0, 255].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    score: float
    face_px: float
    blur: float
    exposure: float


class ClipMeta(BaseModel):
    """``KEY.json``: where a clip comes from. Boxes and landmarks are in source pixels, one row a frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    key: str
    video: str
    name: str
    track: int
    start_frame: int
    end_frame: int
    fps: float
    source_width: int
    source_height: int
    crops: list[tuple[float, float, float, float]]
    landmarks: list[list[tuple[float, float]]]
    quality: Quality
    detector: str
    parser: str
    recipe: str
    labels: dict[str, LabelValue] = {}
    split: str
    identity: str | None = None
    audio: bool = False
    """Whether ``KEY.flac`` lies beside it."""
    cut: Cut | None = None
    """The part of its file that the video is; frames, boxes and landmarks are counted within it."""

    @property
    def frames(self) -> int:
        """Number of frames in the clip."""
        return self.end_frame - self.start_frame


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A finished crop sequence: H.264 bytes of F frames of 224×224 at the source's frame rate, and its metadata.

    ``flac`` is the sound of its span of time (16 kHz, mono), where the recipe asks for it and the source has any.
    """

    meta: ClipMeta
    mp4: bytes
    flac: bytes | None = None


@dataclass(frozen=True, slots=True)
class VideoOutcome:
    """What became of one video, as a row of a few hundred bytes: the ledger and the report are made of these.

    ``reject`` is None when at least one clip came out; ``detail`` then says what damage has cost, if there was any.
    ``filtered`` counts tracks by FilterReason, ``duplicates`` clips left out as near copies of another; ``seconds``
    goes by stage; ``place`` and ``content`` are the SourceVideo's.
    """

    video: str
    name: str
    bytes: int
    info: VideoInfo | None = None
    decoded: int = 0
    detected: int = 0
    faces: int = 0
    tracks: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    clips: int = 0
    duplicates: int = 0
    reject: RejectReason | None = None
    detail: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    labels: dict[str, LabelValue] = field(default_factory=dict)
    place: str = ""
    content: str = ""

    @classmethod
    def of(cls, video: SourceVideo) -> VideoOutcome:
        """Begin the outcome of a video."""
        return cls(
            video.digest,
            video.name,
            video.bytes,
            reject=video.reject,
            detail=video.detail,
            labels=video.labels,
            place=video.place,
            content=video.content,
        )
