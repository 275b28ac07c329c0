"""``marlin up``, ``down``, ``status``, ``deploy``, ``undeploy``, ``sensor``: the flows as a service."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import typer

from flows.command import command
from flows.deploy_config import DeployConfig
from infra.errors import ConfigError

app = typer.Typer()


@command(app)
def up(cfg: DeployConfig) -> None:
    """Start server, deployments, workers and sensor on this machine. What runs with these settings is left alone."""
    from flows.platform import up as start

    print("\n".join(start(cfg)))


@command(app)
def down(cfg: DeployConfig) -> None:
    """Stop what `marlin up` started, with everything it is doing; `up` goes on from there.

    A training that is under way is waited for while it saves, up to about three minutes for each worker.
    """
    from flows.platform import down as stop

    print("\n".join(f"stopped   {name}" for name in stop(cfg)) or "nothing ran")


@command(app)
def status(cfg: DeployConfig) -> None:
    """Show which parts of `marlin up` run. Exit code 0 when all do, 1 otherwise."""
    from flows.platform import status as look

    lines, is_whole = look(cfg)
    print("\n".join(lines))
    if not is_whole:
        raise typer.Exit(1)


@command(app)
def deploy(cfg: DeployConfig) -> None:
    """Register pools, limits, deployments with their schedules, and automations, with the server at PREFECT_API_URL."""
    _find_server(cfg)
    from flows.deploy import deploy as register

    print("\n".join(f"deployed  {name}" for name in register(cfg)))


@command(app)
def undeploy(cfg: DeployConfig) -> None:
    """Take back what `marlin deploy` registered; runs, datasets and registry stay."""
    _find_server(cfg)
    from flows.deploy import undeploy as remove

    print("\n".join(f"removed   {name}" for name in remove(cfg)) or "nothing was deployed")


@command(app)
def sensor(cfg: DeployConfig) -> None:
    """Watch the sources of ingestion and post an event when videos have come, until stopped."""
    if not cfg.ingest.sources:
        raise ConfigError("there is nothing to watch: set 'ingest.sources' in a config file and name it with --config")
    _find_server(cfg)
    from flows.events import VIDEO_ARRIVED, dataset_resource, post_event
    from flows.sensor import Sensor

    stop = threading.Event()

    def leave(number: int, frame: Any) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watcher = Sensor(cfg.ingest, lambda new: post_event(VIDEO_ARRIVED, dataset_resource(cfg.ingest.out), {"new": new}))
    watcher.watch(cfg.sensor.poll_s, stop)


def _find_server(cfg: DeployConfig) -> None:
    """Without PREFECT_API_URL, speak to the server of `marlin up`, and never let Prefect start one of its own."""
    os.environ.setdefault("PREFECT_API_URL", cfg.api_url)
