"""What the flow ``ingest`` leaves behind, with an ingest that need not read videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import ingest
from infra.config import validate_config
from infra.run import RunContext
from pipeline.config import IngestConfig
from pipeline.dataset.reader import open_dataset
from pipeline.ingest import IngestReport
from tests.support.clip_dataset import publish_again, write_clip_dataset


@pytest.mark.parametrize("made", ["nothing", "a version", "a version, by a try that failed"])
def test_only_an_ingest_that_made_a_version_keeps_its_folder_and_is_told(tmp_path, monkeypatch, made):
    """Catches a folder for each idle night, and a version without record or event where the last try found it made."""
    dataset = str(write_clip_dataset(tmp_path / "set", [{"anna": [40]}]))
    cfg = validate_config(IngestConfig, {"sources": ["videos"], "out": dataset}, where="the test")
    posted: list[dict] = []

    def task(cfg: IngestConfig, folder: Path) -> IngestReport:
        with RunContext.create("ingest", cfg, folder=folder) as run:
            if made != "nothing":
                publish_again(dataset)
            run.path("metrics.prom").write_text("1")
        newest = open_dataset(dataset).version
        return IngestReport(dataset, newest.version, made == "a version", newest.counts, 1, 0, 0)

    monkeypatch.setattr(ingest, "ingest_task", task)
    monkeypatch.setattr(ingest, "post_event", lambda *event: posted.append(event[-1]))
    ingest.ingest_flow.fn(cfg, str(tmp_path / "runs"))
    assert len(list((tmp_path / "runs").glob("ingest-*"))) == len(posted) == (made != "nothing")
    assert (tmp_path / "runs" / "ingest.prom").read_text() == "1"
