"""The steps that flows are made of: each a command that can be repeated, run as a job, with what it shows.

Only steps that read from elsewhere are tried again, and only for failures that may pass. What a scarce thing (a GPU,
the right to crawl) cannot bear twice at a time waits for its global concurrency limit.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prefect import State, Task, task
from prefect.client.schemas.objects import ConcurrencyLeaseHolder, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.context import TaskRunContext

from flows.artifacts import ShownProgress, show_adaptation, show_ingest, show_pretraining
from flows.job import run_job
from infra.errors import TransientError
from infra.metrics import read_metrics
from infra.run import RunContext
from model.adapt.report import AdaptReport
from model.adapt.run import adapt
from model.adapt_config import AdaptConfig
from model.charts import loss_curves
from model.pretrain import PretrainReport, pretrain
from model.train_config import PretrainConfig
from pipeline.config import IngestConfig
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.report import write_report
from pipeline.ingest import IngestReport, ingest
from pipeline.samples import fetch_samples

RETRIES = 2
RETRY_DELAYS_S = [2.0, 60.0]
GPU, CRAWL = "marlin-gpu", "marlin-crawl"
"""Global concurrency limits; `marlin deploy` sets them, and without them nothing waits."""
LEASE_S = float(os.environ.get("MARLIN_LEASE_S", "900"))
"""Seconds after which a holder that was killed has lost its place; `marlin deploy` sets it to ``outage_s``."""
PAGE = "dataset.html"


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether a failed task is worth another try."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # every other failure is for good, whatever it is
        return False
    return False


@task(
    name="samples",
    task_run_name="samples",
    retry_condition_fn=may_pass,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
)
def samples_task(folder: Path) -> list[Path]:
    """Fetch the sample videos."""
    return fetch_samples(folder)


@task(
    name="ingest",
    task_run_name="ingest into {cfg.out}",
    tags={"dataset"},
    retry_condition_fn=may_pass,
    retries=RETRIES,
    retry_delay_seconds=RETRY_DELAYS_S,
)
def ingest_task(cfg: IngestConfig, folder: Path) -> IngestReport:
    """Bring the dataset up to date, and write its page when there is a new version."""
    with place_in(CRAWL):
        report = run_job(ingest_job, cfg, folder, folder=folder, on_progress=ShownProgress("ingest-progress"))
    show_ingest(report, folder / PAGE if report.new else None)
    return report


@task(name="pretrain", task_run_name="pretrain {cfg.model.name}", tags={"gpu"})
def pretrain_task(cfg: PretrainConfig, folder: Path) -> PretrainReport:
    """Pretrain, or go on with the run in ``folder``."""
    with place_in(GPU):
        report = run_job(pretrain, cfg, folder, folder=folder, on_progress=ShownProgress("pretrain-progress"))
    show_pretraining(report, loss_curves(read_metrics(folder)))
    return report


@task(name="adapt", task_run_name="adapt to {cfg.task}", tags={"gpu"})
def adapt_task(cfg: AdaptConfig, folder: Path) -> AdaptReport:
    """Adapt an encoder and measure it."""
    with place_in(GPU):
        report = run_job(adapt, cfg, folder, folder=folder, on_progress=ShownProgress("adapt-progress"))
    show_adaptation(report)
    return report


def place_in(limit: str) -> AbstractContextManager[None]:
    """Hold a place in a limit while a task works; by its holder the server tells it from a deployment's place."""
    context = TaskRunContext.get()
    holder = ConcurrencyLeaseHolder(type="task_run", id=context.task_run.id) if context else None
    return concurrency(limit, lease_duration=LEASE_S, holder=holder)


def ingest_job(cfg: IngestConfig, folder: Path) -> IngestReport:
    """Ingest with a run folder of this name, and leave the page of a new version there."""
    with RunContext.create("ingest", cfg, folder=folder) as run:
        report = ingest(cfg, run)
        if report.new:
            write_report(open_dataset(report.dataset, report.version), folder / PAGE)
            run.add_output("report", folder / PAGE)
    return report
