"""``ingest_flow``: bring a dataset up to date with its sources, and tell whoever waits for a new version."""

from __future__ import annotations

from prefect import flow

from flows.events import DATASET_VERSION, dataset_resource, post_event
from flows.runs import new_folder
from flows.tasks import ingest_task
from pipeline.config import IngestConfig
from pipeline.ingest import IngestReport

DAY_S = 24 * 3600


@flow(name="ingest", flow_run_name="ingest into {cfg.out}", timeout_seconds=3 * DAY_S)
def ingest_flow(cfg: IngestConfig, runs: str = "runs") -> IngestReport:
    """Ingest what is new.

    Args:
        cfg: settings of `marlin ingest`.
        runs: folder of run folders.

    Raises:
        ProjectError: the sentence of what could not be done; the same run again goes on.
    """
    report = ingest_task(cfg, new_folder(runs, "ingest", cfg))
    if report.new:
        post_event(DATASET_VERSION, dataset_resource(cfg.out), {"version": report.version})
    return report
