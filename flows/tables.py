"""The ablations and comparisons of the paper as one flow: pretrain, adapt, compare. What is done stays done."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows.tables_config import TablesConfig
from flows.tables_plan import Run, TablesPlan, plan_tables
from flows.tables_report import RESULT, write_tables
from infra.config import dump_config
from infra.errors import ProjectError
from infra.lifeline import die_with
from infra.log import last_line
from infra.ray_job import ray_machines
from infra.storage import open_storage
from model.adapt_config import AdaptDataConfig
from model.train_config import DataConfig
from model.weights import WEIGHTS_FILE
from pipeline.dataset.reader import open_dataset, version_to_go_on_with

DONE = {"pretrain": WEIGHTS_FILE, "adapt": RESULT}
"""The last file of a run: with it, it is finished."""
VERSIONS = "versions.json"
LOG = "output.log"
MODULE = "flows.cli"
Data = TypeVar("Data", DataConfig, AdaptDataConfig)
Start = Callable[[list[str], Path], tuple[int, str]]
"""Runs ``marlin`` with some arguments, its output appended to a file: exit code and last line."""


class TablesError(ProjectError):
    """Cells failed; the page says which."""


class CellError(ProjectError):
    """A run of a table failed; its sentence stands in the table."""


@task(name="cell", task_run_name="{run.folder.name}", cache_policy=NO_CACHE)
def run_cell(run: Run, start: Start) -> Path:
    """Run one command in a process of its own, or find it finished.

    Raises:
        CellError: what it needs is not there, or it failed; its output is in ``output.log``.
    """
    if (run.folder / DONE[run.command]).exists():
        return run.folder
    if run.needs is not None and not (run.needs / DONE["pretrain"]).exists():
        raise CellError(f"its encoder is not there ({run.needs.name})")
    run.folder.mkdir(parents=True, exist_ok=True)
    settings, log = run.folder / "cell.yaml", run.folder / LOG
    settings.write_text(dump_config(run.cfg), encoding="utf-8")
    code, last = start([run.command, "--config", str(settings), "--run", str(run.folder)], log)
    if code:
        raise CellError(last.removeprefix("marlin: ") or f"it ended with code {code}")
    return run.folder


@contextlib.contextmanager
def launcher(cfg: TablesConfig) -> Iterator[Start]:
    """Give what starts cells: on the Ray cluster, or here, each with a GPU that is free.

    Raises:
        ConfigError: no cluster answers, or none of its machines has what a cell reserves.
    """
    launch = cfg.launch
    if launch.ray_gpus is not None:
        with ray_machines(gpus=launch.ray_gpus, cpus=launch.cpus, retries=launch.max_restarts) as machines:
            yield lambda arguments, log: machines.run(MODULE, arguments, log=log)
        return
    free: SimpleQueue[str] = SimpleQueue()
    for gpu in itertools.islice(itertools.cycle(_gpus() if cfg.parallel > 1 else [""]), cfg.parallel):
        free.put(gpu)

    def start(arguments: list[str], log: Path) -> tuple[int, str]:
        gpu = free.get()
        try:
            return run_here(arguments, log, gpu)
        finally:
            free.put(gpu)

    yield start


def run_here(arguments: list[str], log: Path, gpu: str) -> tuple[int, str]:
    """Run ``marlin`` on this machine, with one GPU unless ``gpu`` is empty; return exit code and last line."""
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})}
    command = [sys.executable, "-m", MODULE, *arguments]
    with log.open("ab") as output:
        former = output.tell()
        done = subprocess.run(
            command, stdout=output, stderr=output, env=environment, check=False,
            preexec_fn=partial(die_with, os.getpid()),
        )  # fmt: skip
    return done.returncode, last_line(log, former)


@flow(name="ablation", flow_run_name="tables into {cfg.work}", log_prints=False)
def ablation_flow(cfg: TablesConfig) -> Path:
    """Fill the tables and return the page. A cell that fails leaves the others alone and can be run again.

    Raises:
        ConfigError: nothing can be filled, or no machine of the Ray cluster has what a cell reserves.
        DatasetError: a dataset is not there.
        TablesError: cells failed; the page is written all the same.
    """
    cfg = pinned(cfg)
    plan = plan_tables(cfg)
    with launcher(cfg) as start:
        failures = run_all(plan, start)
    page = write_tables(cfg, plan, failures)
    create_markdown_artifact(key="tables", markdown=page.read_text(encoding="utf-8"))
    if failures:
        raise TablesError(
            f"{len(failures)} of {len(plan.runs)} cells failed, the first with: {next(iter(failures.values()))} "
            f"({page} says it of each; the same command runs them again)"
        )
    return page


def run_all(plan: TablesPlan, start: Start) -> dict[Path, str]:
    """Run every cell, pretrainings before what needs them; return why cells failed."""
    failures: dict[Path, str] = {}
    for command in ("pretrain", "adapt"):
        futures = [(run, run_cell.submit(run, start)) for run in plan.runs if run.command == command]
        for run, future in futures:
            outcome = future.result(raise_on_failure=False)
            if isinstance(outcome, Exception):
                failures[run.folder] = str(outcome).partition("\n")[0] or type(outcome).__name__
    return failures


def pinned(cfg: TablesConfig) -> TablesConfig:
    """Return the settings with every dataset at one version: the one named, else that which the work folder began with.

    A dataset that is new to the work folder, or whose version there was taken down, is taken at its newest, which is
    kept there (``versions.json``): a night's ingest changes no cell, also when the same command goes on after it.
    """
    work = open_storage(cfg.work)
    begun: dict[str, int] = json.loads(work.read(VERSIONS)) if work.exists(VERSIONS) else {}

    def pin(part: Data) -> Data:
        if part.version:
            open_dataset(part.dataset, part.version)  # one that is not there is refused now, and not by every cell
            return part
        begun[part.dataset] = version_to_go_on_with(part.dataset, begun.get(part.dataset))
        return part.model_copy(update={"version": begun[part.dataset]})

    data = {name: pin(part) for name, part in cfg.data.items()}
    pretrain = cfg.pretrain.model_copy(update={"data": pin(cfg.pretrain.data)})
    work.write(VERSIONS, json.dumps(begun, indent=1).encode())
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
