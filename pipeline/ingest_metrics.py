"""What Prometheus sees of an ingest. Numbers and reasons only: no name of a video or a person is a label."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from infra.metrics_export import exported
from pipeline.config import MetricsConfig
from pipeline.rows import RejectReason
from pipeline.stages import FinishedVideo


class IngestMetrics:
    """The metrics of one ingest, in a registry of their own.

    ``marlin_ingest_videos_total``, ``…_frames_total`` (decoded), ``…_clips_total``, ``…_source_bytes_total`` and
    ``…_rejects_total{reason}`` count what came out of this run; ``…_stage_seconds_total{stage}`` adds up the wall
    seconds of all workers; ``…_videos_in_progress`` are planned and not finished; ``…_videos_listed{source}`` is what
    a source offers, the first being source 1; ``…_dataset_version`` is the newest version,
    ``…_last_success_timestamp_seconds`` the time at which the ingest ended well (absent otherwise).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._start: float | None = None
        self._decoded = 0
        self._videos = self._counter("videos", "Videos treated, rejects included")
        self._frames = self._counter("frames", "Frames decoded")
        self._clips = self._counter("clips", "Clips made")
        self._bytes = self._counter("source_bytes", "Bytes of the videos treated")
        self._rejects = self._counter("rejects", "Videos that gave no clip", "reason")
        self._seconds = self._counter("stage_seconds", "Wall seconds of all workers", "stage")
        self._in_progress = self._gauge("videos_in_progress", "Videos planned and not finished")
        self._listed = self._gauge("videos_listed", "Videos that a source lists, by its number", "source")
        for reason in RejectReason:  # a reason that has not come yet is 0 and not absent: rates and alerts need that
            self._rejects.labels(reason.value)

    @classmethod
    @contextmanager
    def exported(cls, cfg: MetricsConfig, folder: Path | None) -> Iterator[IngestMetrics]:
        """Serve the metrics for the body as ``cfg`` says, and write them into the run ``folder`` at its end."""
        metrics = cls()
        with exported(metrics.registry, host=cfg.host, port=cfg.port, folder=folder):
            yield metrics

    def listed(self, videos: Iterable[int]) -> None:
        """Note how many videos each source lists, in the order of the sources."""
        for number, count in enumerate(videos, 1):
            self._listed.labels(str(number)).set(count)

    def planned(self, videos: int) -> None:
        """Count videos as begun."""
        self._start = self._start or time.monotonic()
        self._in_progress.inc(videos)

    def finished(self, video: FinishedVideo) -> None:
        """Count a video that came out of the last stage."""
        self._in_progress.dec()
        self._videos.inc()
        self._frames.inc(video.frames)
        self._decoded += video.frames
        self._clips.inc(video.clips)
        self._bytes.inc(video.bytes)
        if video.reject:
            self._rejects.labels(video.reject).inc()
        for stage, seconds in video.seconds.items():
            self._seconds.labels(stage).inc(seconds)

    @property
    def frames_per_s(self) -> float:
        """Frames decoded per second since the first video was planned, all workers together."""
        return self._decoded / max(time.monotonic() - self._start, 1e-9) if self._start else 0.0

    def succeeded(self, version: int) -> None:
        """Note the good end of the ingest, and the newest version of the dataset."""
        self._gauge("dataset_version", "Newest version of the dataset").set(version)
        self._gauge("last_success_timestamp_seconds", "When the ingest ended well").set_to_current_time()

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"marlin_ingest_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"marlin_ingest_{name}", what, labels, registry=self.registry)
