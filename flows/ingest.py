"""``ingest_flow``: bring a dataset up to date with its sources, and tell whoever waits for a new version."""

from __future__ import annotations

import shutil
from pathlib import Path

from prefect import flow

from flows.events import DATASET_VERSION, dataset_resource, post_event
from flows.tasks import ingest_task
from infra.run import METRICS_TEXT, new_run_folder
from infra.storage import open_storage
from pipeline.config import IngestConfig
from pipeline.dataset.versions import list_versions
from pipeline.ingest import IngestReport

DAY_S = 24 * 3600
LAST_METRICS = "ingest.prom"
"""The metrics of the last ingest, in the folder of run folders: that of a run with nothing new does not stay."""


@flow(name="ingest", flow_run_name="ingest into {cfg.out}", timeout_seconds=3 * DAY_S)
def ingest_flow(cfg: IngestConfig, runs: str = "runs") -> IngestReport:
    """Ingest what is new. A run that made no version leaves no folder.

    Args:
        cfg: settings of `marlin ingest`.
        runs: folder of run folders.

    Raises:
        ProjectError: the sentence of what could not be done; the same run again goes on.
    """
    before = max(list_versions(open_storage(cfg.out)), default=0)
    folder = new_run_folder("ingest", cfg, root=runs)
    report = ingest_task(cfg, folder)
    if (metrics := folder / METRICS_TEXT).exists():
        shutil.copyfile(metrics, part := Path(runs) / f".{LAST_METRICS}")
        part.replace(Path(runs) / LAST_METRICS)
    if report.version > before:  # made by this run, though perhaps not by its last try
        post_event(DATASET_VERSION, dataset_resource(cfg.out), {"version": report.version})
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return report
