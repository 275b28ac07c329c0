"""``adapt_flow``: adapt an encoder to a task and measure it."""

from __future__ import annotations

from prefect import flow

from flows.ingest import DAY_S
from flows.runs import settled_folder
from flows.tasks import adapt_task
from model.adapt.report import AdaptReport
from model.adapt_config import AdaptConfig


@flow(name="adapt", flow_run_name="adapt to {cfg.task}", timeout_seconds=7 * DAY_S)
def adapt_flow(cfg: AdaptConfig, runs: str = "runs") -> AdaptReport:
    """Adapt.

    Args:
        cfg: settings of `marlin adapt`.
        runs: folder of run folders.

    Raises:
        ProjectError: the sentence of what could not be done.
    """
    return adapt_task(cfg, settled_folder(runs, f"adapt-{cfg.task}", cfg))
