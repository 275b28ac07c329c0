"""What runs in the child processes that may be killed: native decoding, detection, encoding and region parsing."""

from __future__ import annotations

import time
from dataclasses import replace

from pipeline.config import IngestConfig
from pipeline.dataset.format import AUDIO, MAPS, META, VIDEO
from pipeline.dataset.sample import meta_from_bytes, meta_to_bytes, regions_to_bytes
from pipeline.dataset.tar import TarReader, TarWriter
from pipeline.dataset.work import OUTCOME, outcome_from_bytes, outcome_to_bytes
from pipeline.extract_clips import ClipExtractor
from pipeline.faces.backend import build_parser
from pipeline.faces.labelled import boxes_digest
from pipeline.media.probe import believed_seconds
from pipeline.parse_regions import parse_clip
from pipeline.places import frames_folder
from pipeline.rejects import RejectError
from pipeline.requests import Extract, Measure, Parse
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.content import content_digest, cut_digest


class ClipWorker:
    """Answers Measure and Extract."""

    def __init__(self, cfg: IngestConfig, recipe: str) -> None:
        self._extractor, self._max_pixels = ClipExtractor(cfg, recipe), cfg.limits.max_pixels
        self._labelled_boxes = cfg.faces.labelled_boxes

    def __call__(self, request: Measure | Extract) -> float | VideoOutcome:
        """Do one request."""
        if isinstance(request, Measure):
            return believed_seconds(request.path, self._max_pixels)
        return self._extract(request)

    def _extract(self, request: Extract) -> VideoOutcome:
        video = request.video
        outcome = VideoOutcome.of(video)
        try:
            _check_source(video, request.path, self._labelled_boxes)
            with TarWriter(request.tar) as tar:
                for clip in self._extractor(video, request.path, video.split or "train"):
                    tar.add(clip.meta.key + META, meta_to_bytes(clip.meta))
                    tar.add(clip.meta.key + VIDEO, clip.mp4)
                    if clip.flac is not None:
                        tar.add(clip.meta.key + AUDIO, clip.flac)
                outcome = self._extractor.outcome
                tar.add(OUTCOME, outcome_to_bytes(outcome))
        except RejectError as reject:
            seen = getattr(self._extractor, "outcome", None)
            known = seen if seen is not None and seen.video == video.digest else outcome
            return replace(known, clips=0, reject=reject.reason, detail=reject.detail)
        return outcome


class RegionWorker:
    """Answers Parse."""

    def __init__(self, cfg: IngestConfig) -> None:
        self._parser = build_parser(cfg.faces)

    def __call__(self, request: Parse) -> VideoOutcome:
        """Do one request."""
        start = time.perf_counter()
        with TarReader(request.clips) as clips, TarWriter(request.regions) as regions:
            for name in clips.names:
                if name.endswith(VIDEO):
                    key = name.removesuffix(VIDEO)
                    meta = meta_from_bytes(clips.read(key + META))
                    regions.add(key + MAPS, regions_to_bytes(parse_clip(clips.read(name), meta, self._parser)))
            outcome = outcome_from_bytes(clips.read(OUTCOME))
        return replace(outcome, seconds={**outcome.seconds, "parse": round(time.perf_counter() - start, 3)})


def _check_source(video: SourceVideo, path: str, labelled_boxes: bool) -> None:
    """Refuse a file that is no longer the one that was planned: its clips would carry another's identity."""
    folder = frames_folder(path)
    boxes = boxes_digest(folder) if labelled_boxes and folder is not None else ""
    try:
        content, _ = content_digest(path)
    except OSError as error:
        raise RejectError(RejectReason.UNREADABLE, f"cannot be opened: {error.strerror or error}") from error
    if cut_digest(content, video.cut, boxes) != video.digest:
        raise RejectError(RejectReason.UNREADABLE, "changed between listing and reading")
