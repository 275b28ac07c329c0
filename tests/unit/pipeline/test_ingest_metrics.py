"""An ingest's metrics as Prometheus gets them: over HTTP, and as a file."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import ConfigError
from pipeline.config import MetricsConfig
from pipeline.ingest_metrics import IngestMetrics
from pipeline.stages import FinishedVideo

GOOD = FinishedVideo(
    "u", 2, "a" * 64, "a secret name.mp4", 3, bytes=1000, frames=75, seconds={"decode": 0.5, "parse": 1}
)
BAD = FinishedVideo("u", 2, "b" * 64, "b.mp4", 0, reject="no_face", bytes=10, frames=25, seconds={"decode": 0.25})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _values(text: str) -> dict[str, float]:
    return {
        sample.name.removeprefix("marlin_ingest_")
        + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_in_the_middle_and_the_file_at_the_end_tell_what_came_out(tmp_path: Path) -> None:
    """Bug caught: counters that count nothing or twice, a port that stays open, a name of a video in a label."""
    port = _free_port()
    with IngestMetrics.exported(MetricsConfig(port=port), tmp_path) as metrics:
        metrics.listed([12, 0])
        metrics.planned(3)
        metrics.finished(GOOD)
        metrics.finished(BAD)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        metrics.succeeded(7)
    seen = _values(text)
    expected = {
        "videos_total": 2, "frames_total": 100, "clips_total": 3, "source_bytes_total": 1010,
        "rejects_total no_face": 1, "rejects_total timeout": 0, "stage_seconds_total decode": 0.75,
        "stage_seconds_total parse": 1, "videos_in_progress": 1, "videos_listed 1": 12,
        "videos_listed 2": 0,
    }  # fmt: skip
    assert expected.items() <= seen.items()
    assert "secret" not in text
    assert "dataset_version" not in seen
    written = _values((tmp_path / "metrics.prom").read_text())
    assert written["dataset_version"] == 7
    assert written["last_success_timestamp_seconds"] > 1e9
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2)


def test_an_ingest_that_fails_leaves_its_metrics_without_a_success(tmp_path: Path) -> None:
    """Bug caught: an alert on the last success that a failed night silences."""

    def night() -> None:
        with IngestMetrics.exported(MetricsConfig(), tmp_path) as metrics:
            metrics.finished(GOOD)
            raise ValueError("the night fails")

    with pytest.raises(ValueError, match="night"):
        night()
    written = _values((tmp_path / "metrics.prom").read_text())
    assert written["videos_total"] == 1
    assert "last_success_timestamp_seconds" not in written


def test_a_port_in_use_is_one_sentence() -> None:
    """Bug caught: a traceback, or a night without metrics that nobody notices."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        cfg = MetricsConfig(port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="metrics cannot be served on"), IngestMetrics.exported(cfg, None):
            pass
