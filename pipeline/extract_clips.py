"""One video in, its face clips out: probe, decode, detect, link, smooth, crop, encode.

Two passes over the frames, in chunks: the first finds the tracks, the second crops them. Memory is bounded by the chunk
and by the faces in sight at a time, not by the length of the video.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from pipeline.config import IngestConfig
from pipeline.dataset.format import REGION_STRIDE, clip_key
from pipeline.faces.backend import FaceDetector, build_detector, detector_name, parser_name
from pipeline.faces.crop import blur_and_exposure, crop_square
from pipeline.faces.duplicates import SeenClips
from pipeline.faces.filters import face_side, judge_tracks
from pipeline.faces.labelled import labelled_boxes
from pipeline.faces.scan import scan_faces
from pipeline.media.audio import ClipAudio
from pipeline.media.clock import StageClock
from pipeline.media.encode import encode_clip
from pipeline.media.frames import Frames, open_frames
from pipeline.media.probe import probe
from pipeline.rejects import RejectError
from pipeline.rows import (
    ClipMeta,
    EncodedClip,
    FaceTrack,
    Quality,
    RejectReason,
    SourceVideo,
    VideoInfo,
    VideoOutcome,
)


@dataclass(slots=True)
class _OpenClip:
    """A clip that is being filled: frames ``start`` … ``end - 1`` of the video."""

    track: FaceTrack
    start: int
    end: int
    crops: list[np.ndarray] = field(default_factory=list)


class ClipExtractor:
    """Turns videos into clips, one after another; holds the detector.

    Deterministic: same file, same settings, same type of device, same clips, byte for byte, whatever the chunk size.
    Sets OpenCV to one thread, since callers run one process per core.

    Attributes:
        outcome: what became of the last video; set when its iteration has ended, also by a RejectError.
    """

    outcome: VideoOutcome

    def __init__(self, cfg: IngestConfig, recipe: str, detector: FaceDetector | None = None) -> None:
        """Load the configured detector, unless one is given.

        Raises:
            WeightsError: its weights cannot be had.
        """
        cv2.setNumThreads(1)
        self._cfg, self._recipe = cfg, recipe
        self._detector = detector or build_detector(cfg.faces)

    def __call__(self, video: SourceVideo, path: str, split: str) -> Iterator[EncodedClip]:
        """Yield the clips of one video, in the order in which they end.

        Args:
            video: its identity, name and labels.
            path: local file.
            split: train, val or test; written into the clips.

        Raises:
            RejectError: the video gives no clip; ``outcome`` has the reason and what was counted until then.
        """
        clock = StageClock()
        outcome = VideoOutcome.of(video)
        try:
            with clock("probe"):
                info = probe(path, self._cfg.limits.max_pixels, video.cut)
            outcome = replace(outcome, info=info)
            frames = open_frames(path, video.cut)
            chunk = self._cfg.limits.chunk_frames
            scan = scan_faces(
                clock.over("decode", frames.iter_chunks(chunk)),
                self._detector,
                self._cfg.track,
                hold_bytes=self._cfg.limits.hold_mb << 20,
                clock=clock,
                choose=labelled_boxes(path, frames) if self._cfg.faces.labelled_boxes else None,
                follows_loss=lambda number: number in frames.losses,
            )
            outcome = replace(outcome, decoded=scan.frames, faces=scan.faces, detail=_loss(frames, scan.frames, info))
            seconds, losses = frames.seconds, frames.losses  # the second pass begins others
            with clock("track"):
                tracks, filtered, shown = judge_tracks(scan, self._cfg.track, info.fps)
            outcome = replace(outcome, tracks=len(tracks) + sum(filtered.values()), filtered=filtered, detected=shown)
            if not tracks:
                raise _nothing_left(outcome)
            chunks = scan.held if scan.held is not None else frames.iter_chunks(chunk)
            seen = SeenClips(self._cfg.clip.duplicate_bits)
            audio = ClipAudio(path) if self._cfg.clip.audio else None
            for clip in self._crop(clock.over("decode", chunks), tracks, clock):
                with clock("quality"):
                    crops_FHWC = np.stack(clip.crops)
                    clip.crops.clear()
                    is_copy = seen.is_copy(crops_FHWC)
                if is_copy:
                    outcome = replace(outcome, duplicates=outcome.duplicates + 1)
                    continue
                outcome = replace(outcome, clips=outcome.clips + 1)
                with clock("audio"):
                    flac = audio.flac(*_span(clip, seconds, losses, info.fps)) if audio else None
                with clock("encode"):
                    encoded = self._encode(clip, crops_FHWC, flac, video, info, split)
                yield encoded
        except RejectError as reject:
            outcome = replace(outcome, clips=0, reject=reject.reason, detail=reject.detail)
            raise
        finally:
            self.outcome = replace(outcome, seconds=clock.seconds)

    def _crop(
        self, chunks: Iterable[tuple[int, np.ndarray]], tracks: Sequence[FaceTrack], clock: StageClock
    ) -> Iterator[_OpenClip]:
        """Yield each clip of each track when its last frame has been cropped."""
        longest = self._cfg.clip.max_frames
        waiting = [
            _OpenClip(track, start, min(start + longest, track.end))
            for track in tracks
            for start in range(track.start, track.end, longest)
        ]
        waiting.sort(key=lambda clip: (clip.end, clip.track.track))
        for first, frames_FHWC in chunks:
            stop = first + len(frames_FHWC)
            with clock("crop"):
                for clip in waiting:
                    for number in range(max(first, clip.start), min(stop, clip.end)):
                        square_4 = clip.track.crops_F4[number - clip.track.start]
                        clip.crops.append(crop_square(frames_FHWC[number - first], square_4, self._cfg.clip.size))
            while waiting and waiting[0].end <= stop:
                yield waiting.pop(0)
        if waiting:
            raise RejectError(RejectReason.DECODE_FAILED, "it ended earlier when it was decoded a second time")

    def _encode(
        self,
        clip: _OpenClip,
        crops_FHWC: np.ndarray,
        flac: bytes | None,
        video: SourceVideo,
        info: VideoInfo,
        split: str,
    ) -> EncodedClip:
        track = clip.track
        rows = slice(clip.start - track.start, clip.end - track.start)
        judged = [blur_and_exposure(crop) for crop in crops_FHWC[::REGION_STRIDE]]
        blur, exposure = np.mean(judged, axis=0)
        meta = ClipMeta(
            key=clip_key(video.digest, track.track, clip.start, self._recipe),
            video=video.digest,
            name=video.name,
            track=track.track,
            start_frame=clip.start,
            end_frame=clip.end,
            fps=info.fps,
            source_width=info.width,
            source_height=info.height,
            crops=_rounded(track.crops_F4[rows]),
            landmarks=_rounded(track.landmarks_F52[rows]),
            quality=Quality(
                score=round(float(track.scores_F[rows].mean()), 4),
                face_px=round(face_side(track.boxes_F4[rows]), 2),
                blur=round(float(blur), 2),
                exposure=round(float(exposure), 2),
            ),
            detector=detector_name(self._cfg.faces),
            parser=parser_name(self._cfg.faces),
            recipe=self._recipe,
            labels=video.labels,
            split=split,
            identity=video.identity,
            cut=video.cut,
            audio=flac is not None,
        )
        return EncodedClip(meta, encode_clip(crops_FHWC, info.fps, self._cfg.clip), flac)


def _span(clip: _OpenClip, seconds: Sequence[float], losses: Container[int], fps: float) -> tuple[float, float]:
    """When a clip's first frame is shown, and when the frame behind its last one is; or would be, if lost or none."""
    has_next = clip.end < len(seconds) and clip.end not in losses
    return seconds[clip.start], seconds[clip.end] if has_next else seconds[clip.end - 1] + 1 / fps


def _loss(frames: Frames, decoded: int, info: VideoInfo) -> str | None:
    """What damage has cost, for the outcome of a video that still gave clips."""
    return f"damaged: {decoded} of {info.frames} stated frames were decoded" if frames.is_damaged else None


def _nothing_left(outcome: VideoOutcome) -> RejectError:
    if not outcome.faces:
        return RejectError(RejectReason.NO_FACE, f"no face in {outcome.decoded} frames")
    why = ", ".join(f"{count} {reason}" for reason, count in outcome.filtered.items())
    return RejectError(RejectReason.NO_TRACK, f"all {outcome.tracks} tracks were filtered out: {why}")


def _rounded(values: np.ndarray) -> list:
    """Hundredths of a pixel are enough, and keep the metadata small."""
    return np.round(values.astype(np.float64), 2).tolist()
