"""``marlin up`` and ``marlin down``: server, deployments, workers and sensor on one machine.

``up`` starts what does not run and leaves alone what does, so a timer that calls it keeps everything alive.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from functools import partial
from pathlib import Path

from flows.deploy_config import DeployConfig
from flows.processes import Keeper, Part, alone, listens
from infra.config import dump_config
from infra.errors import ConfigError

RAY, STORE, SERVER, SENSOR = "ray", "store", "server", "sensor"
LOOPBACK = "127.0.0.1"


def up(cfg: DeployConfig) -> list[str]:
    """Start everything that does not run; return a line for each part, and where the server is.

    While another ``up`` or ``down`` is at work here nothing is done, and that is no failure: a timer comes again.

    The database is SQLite's in ``work`` unless PREFECT_SERVER_DATABASE_CONNECTION_URL names another (PostgreSQL:
    ``postgresql+asyncpg://…``), which is for regular use: SQLite locks under load.

    Raises:
        ProjectError: a part does not start, or another's serves at its port; those that did keep running.
    """
    work = Path(cfg.work).absolute()
    with alone(work, wait=False) as is_alone:
        if not is_alone:
            return [f"nothing is started: another `marlin up` or `marlin down` of {work} is at work"]
        config_file = work / "deploy.yaml"  # the sensor reads it
        config_file.write_text(dump_config(cfg), encoding="utf-8")
        keeper = Keeper(work)
        variables = environment(cfg)
        os.environ.update(variables)
        lines = [_line(keeper, part) for part in _before_deploying(cfg, work)]
        from flows.deploy import deploy

        lines += [f"deployed  {name}" for name in deploy(cfg, Path(variables["PREFECT_HOME"]))]
        lines += [_line(keeper, part) for part in _after_deploying(cfg, config_file)]
        return [*lines, f"server    {cfg.api_url.removesuffix('/api')} (stop everything with `marlin down`)"]


def down(cfg: DeployConfig) -> list[str]:
    """End everything that ``up`` started here, with all its children; return the names of what ran.

    It waits for another ``up`` or ``down``.
    """
    work = Path(cfg.work).absolute()
    if not work.exists():
        return []
    with alone(work, wait=True):
        keeper = Keeper(work)
        workers = [f"worker-{pool.name}" for pool in cfg.pools]
        return [name for name in (SENSOR, *workers, SERVER, RAY, STORE) if keeper.end(name)]


def environment(cfg: DeployConfig) -> dict[str, str]:
    """Return the variables under which all parts run; what is set already is kept, but for the server's address."""
    home = Path(cfg.work).absolute() / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    found = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs that ended 90 days ago, and their logs
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "flows.leases",
    }
    found = {name: os.environ.get(name, value) for name, value in found.items()}
    if cfg.ray_port:
        found["RAY_ADDRESS"] = f"{LOOPBACK}:{cfg.ray_port}"
    return {**cfg.environment, **found, "PREFECT_API_URL": cfg.api_url}


def _before_deploying(cfg: DeployConfig, work: Path) -> list[Part]:
    parts = []
    if cfg.store_port:
        if shutil.which("minio") is None:
            raise ConfigError("store_port is set and minio is not installed; install it, or set store_port to 0")
        command = ["minio", "server", "--address", f"{LOOPBACK}:{cfg.store_port}", str(work / "objects")]
        parts.append(_listening(STORE, command, {}, cfg.store_port, "store_port"))
    if cfg.ray_port:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [
            ray, "start", "--head", "--block", f"--node-ip-address={LOOPBACK}", f"--port={cfg.ray_port}",
            "--include-dashboard=false", "--disable-usage-stats",
            "--min-worker-port=0", "--max-worker-port=0",  # any free ones, or ray_port cannot be in 10002 to 19999
        ]  # fmt: skip
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # otherwise it listens on all interfaces
        parts.append(_listening(RAY, command, loopback, cfg.ray_port, "ray_port"))
    command = [_prefect(), "server", "start", "--host", cfg.host, "--port", str(cfg.port)]
    healthy = partial(_answers, f"{cfg.api_url}/health")
    parts.append(Part(SERVER, command, {}, healthy, address=(cfg.host, cfg.port), setting="port"))
    return parts


def _listening(name: str, command: list[str], variables: dict[str, str], port: int, setting: str) -> Part:
    """A part that is ready when it takes connections on a port of the loopback."""
    address = (LOOPBACK, port)
    return Part(name, command, variables, partial(listens, address), address=address, setting=setting)


def _after_deploying(cfg: DeployConfig, config_file: Path) -> list[Part]:
    workers = [
        Part(
            f"worker-{pool.name}",
            [_prefect(), "worker", "start", "--pool", pool.name, "--type", pool.kind, "--name", pool.name],
            {},
        )
        for pool in cfg.pools
    ]
    if not cfg.ingest.sources:
        return workers  # nothing to watch
    return [*workers, Part(SENSOR, [sys.executable, "-m", "flows.cli", "sensor", "--config", str(config_file)], {})]


def _prefect() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def _line(keeper: Keeper, part: Part) -> str:
    return f"{'started' if keeper.ensure(part) else 'runs':<9} {part.name}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # our own address
            return answer.status == 200
    except OSError:
        return False
