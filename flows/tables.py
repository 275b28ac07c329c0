"""The ablations and comparisons of the paper as one flow: pretrain, adapt, compare. What is done stays done."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner

from flows.tables_config import TablesConfig
from flows.tables_plan import Run, TablesPlan, plan_tables
from flows.tables_report import RESULT, write_tables
from infra.config import dump_config
from infra.errors import ProjectError
from infra.launcher import die_with_parent
from model.weights import WEIGHTS_FILE
from pipeline.dataset.reader import open_dataset

DONE = {"pretrain": WEIGHTS_FILE, "adapt": RESULT}
"""The last file of a run: with it, it is finished."""
LOG = "output.log"


class CellError(ProjectError):
    """A run of a table failed; its sentence stands in the table."""


@task(name="cell", task_run_name="{run.folder.name}")
def run_cell(run: Run, gpu: str) -> Path:
    """Run one command in a process of its own, or find it finished.

    Raises:
        CellError: what it needs is not there, or it failed; its output is in ``output.log``.
    """
    if (run.folder / DONE[run.command]).exists():
        return run.folder
    if run.needs is not None and not (run.needs / DONE["pretrain"]).exists():
        raise CellError(f"its encoder is not there ({run.needs.name})")
    run.folder.mkdir(parents=True, exist_ok=True)
    settings = run.folder / "cell.yaml"
    settings.write_text(dump_config(run.cfg), encoding="utf-8")
    command = [sys.executable, "-m", "flows.cli", run.command, "--config", str(settings), "--run", str(run.folder)]
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
    with (run.folder / LOG).open("ab") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False, preexec_fn=die_with_parent)
    if done.returncode:
        said = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise CellError(said[-1].removeprefix("marlin: ") if said else f"it ended with code {done.returncode}")
    return run.folder


@flow(name="ablation", flow_run_name="tables into {cfg.work}", log_prints=False)
def ablation_flow(cfg: TablesConfig) -> Path:
    """Fill the tables and return the page. A cell that fails leaves the others alone and can be run again.

    Raises:
        ConfigError: nothing can be filled.
        DatasetError: a dataset is not there.
    """
    cfg = pinned(cfg)
    plan = plan_tables(cfg)
    failures = run_all(plan, cfg.parallel)
    page = write_tables(cfg, plan, failures)
    create_markdown_artifact(key="tables", markdown=page.read_text(encoding="utf-8"))
    return page


def run_all(plan: TablesPlan, parallel: int) -> dict[Path, str]:
    """Run every cell, pretrainings before what needs them; return why cells failed."""
    gpus = itertools.cycle(_gpus() if parallel > 1 else [""])
    failures: dict[Path, str] = {}
    for command in ("pretrain", "adapt"):
        futures = [(run, run_cell.submit(run, next(gpus))) for run in plan.runs if run.command == command]
        for run, future in futures:
            future.wait()
            if not future.state.is_completed():
                failures[run.folder] = str(future.state.message or "failed").partition("\n")[0]
    return failures


def pinned(cfg: TablesConfig) -> TablesConfig:
    """Return the settings with every dataset at the version that is newest now: a night's ingest changes no cell."""
    data = {
        name: part.model_copy(update={"version": open_dataset(part.dataset, part.version).version.version})
        for name, part in cfg.data.items()
    }
    read = cfg.pretrain.data
    version = open_dataset(read.dataset, read.version).version.version
    pretrain = cfg.pretrain.model_copy(update={"data": read.model_copy(update={"version": version})})
    return cfg.model_copy(update={"data": data, "pretrain": pretrain})


def run_tables(cfg: TablesConfig) -> Path:
    """Run the flow with as many cells at a time as the settings say."""
    runner: Any = ThreadPoolTaskRunner(max_workers=cfg.parallel)
    page: Path = ablation_flow.with_options(task_runner=runner)(cfg)
    return page


def _gpus() -> list[str]:
    """The GPUs that cells share out: those that are visible, else the empty word."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())] or [""]
