"""docs/ingestion.md speaks of what there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from pipeline.config import IngestConfig
from pipeline.ingest_metrics import IngestMetrics
from pipeline.rows import FilterReason, RejectReason

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "ingestion.md").read_text(encoding="utf-8")


def _rows() -> dict[str, list[str]]:
    """First cell → all cells, of every table row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row for row in rows}


def test_every_reason_has_a_row_that_says_what_it_means_and_what_to_do() -> None:
    """Bug caught: a new reason that an operator meets at night and finds nowhere."""
    for reason in (*RejectReason, *FilterReason):
        assert len(_rows().get(reason.value, [])) == 3, reason
        assert all(_rows()[reason.value]), reason


def test_settings_and_metrics_that_it_names_exist() -> None:
    """Bug caught: advice to turn a screw that was renamed."""
    (settings,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    IngestConfig.model_validate(yaml.safe_load(settings))
    (resources,) = re.findall(r"`(resources: \{.*?)`", TEXT)
    IngestConfig.model_validate(yaml.safe_load(resources))
    named = re.findall(r"`((?:track|limits)\.[a-z_]+)`", TEXT)
    assert len(named) > 8
    known = IngestConfig().model_dump()
    assert [name for name in named if name.split(".")[1] not in known[name.split(".")[0]]] == []
    metrics = IngestMetrics()
    metrics.listed([1])
    metrics.succeeded(1)
    exported = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    told = {f"marlin_ingest_{name}" for name in re.findall(r"`(?:marlin_ingest|…)_([a-z_]+)(?:\{[a-z]+\})?`", TEXT)}
    assert told == {name for name in exported if not name.endswith("_created")} | {"marlin_ingest_stage_seconds_total"}
