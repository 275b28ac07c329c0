"""``marlin up``, ``down`` and ``status``: server, deployments, workers and sensor on one machine.

``up`` starts what does not run and leaves alone what does, so a timer that calls it keeps everything alive.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from collections.abc import Collection
from functools import partial
from pathlib import Path

from flows.deploy_config import DeployConfig
from flows.processes import Keeper, Part, alone, listens
from infra.config import dump_config
from infra.errors import ConfigError, ProjectError

RAY, STORE, SERVER, SENSOR = "ray", "store", "server", "sensor"
WORKER = "worker-"
LOOPBACK = "127.0.0.1"
FORMER = "with its former settings, as a run is at work; call `marlin up` again when that has ended"


def up(cfg: DeployConfig) -> list[str]:
    """Start everything that does not run; return a line for each part, and where the server is.

    What was started with other settings is started again, but not while a flow run is at work that would be ended by
    it; what the settings do not name any more is ended. While another ``up`` or ``down`` is at work here nothing is
    done, and that is no failure: a timer comes again.

    The database is SQLite's in ``work`` unless PREFECT_SERVER_DATABASE_CONNECTION_URL names another (PostgreSQL:
    ``postgresql+asyncpg://…``), which is for regular use: SQLite locks under load.

    Raises:
        ConfigError: a setting that shows itself to be wrong only now; nothing was started.
        ProjectError: a part does not start, another's serves at its port, or it would have to move while a run is at
            work; those that did start keep running.
    """
    work = Path(cfg.work).absolute()
    with alone(work, wait=False) as is_alone:
        if not is_alone:
            return [f"nothing is started: another `marlin up` or `marlin down` of {work} is at work"]
        variables = environment(cfg)
        os.environ.update(variables)
        from flows.deploy import check_schedules, deploy

        check_schedules(cfg)
        config_file = work / "deploy.yaml"  # the sensor reads it
        config_file.write_text(dump_config(cfg), encoding="utf-8")
        keeper = Keeper(work)
        before, after = _before_deploying(cfg, work), _after_deploying(cfg, config_file)
        lines = [_line(keeper, part) for part in before]
        lines += [f"deployed  {name}" for name in deploy(cfg, Path(variables["PREFECT_HOME"]))]
        lines += [_line(keeper, part) for part in after]
        lines += _without(keeper, {part.name for part in (*before, *after)})
        return [*lines, f"server    {_address(cfg)} (stop everything with `marlin down`)"]


def down(cfg: DeployConfig) -> list[str]:
    """End everything that ``up`` started here, with all its children; return the names of what ran.

    It waits for another ``up`` or ``down``.
    """
    work = Path(cfg.work).absolute()
    if not work.exists():
        return []
    with alone(work, wait=True):
        keeper = Keeper(work)
        workers = [name for name in keeper.names() if name not in (SENSOR, SERVER, RAY, STORE)]  # of former pools, too
        return [name for name in (SENSOR, *workers, SERVER, RAY, STORE) if keeper.end(name)]


def status(cfg: DeployConfig) -> tuple[list[str], bool]:
    """Return a line for each part that ``up`` keeps running, the last one with the server's address; and if all run."""
    work = Path(cfg.work).absolute()
    keeper = Keeper(work)
    parts = [*_before_deploying(cfg, work), *_after_deploying(cfg, work / "deploy.yaml")]
    said = {part.name: _state(keeper, part) for part in parts}
    lines = [f"{state:<16} {name}" for name, state in said.items()]
    return [*lines, f"{'server at':<16} {_address(cfg)}"], set(said.values()) <= {"runs"}


def environment(cfg: DeployConfig) -> dict[str, str]:
    """Return the variables under which all parts run; what is set already is kept, but for the server's address."""
    (Path(cfg.work).absolute() / "prefect").mkdir(parents=True, exist_ok=True)
    return _by_settings(cfg) | {name: os.environ[name] for name in _defaults(cfg) if name in os.environ}


def _by_settings(cfg: DeployConfig) -> dict[str, str]:
    """The variables where none is set already."""
    ray = {"RAY_ADDRESS": f"{LOOPBACK}:{cfg.ray_port}"} if cfg.ray_port else {}
    return {**cfg.environment, **_defaults(cfg), **ray, "PREFECT_API_URL": cfg.api_url}


def _defaults(cfg: DeployConfig) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(Path(cfg.work).absolute() / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs that ended 90 days ago, and their logs
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "300",  # told about: a busy machine is no failure
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "flows.leases",
    }


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
    address = (cfg.host, cfg.port)
    parts.append(Part(SERVER, command, {}, healthy, address=address, setting="port", settings=_by_settings(cfg)))
    return parts


def _listening(name: str, command: list[str], variables: dict[str, str], port: int, setting: str) -> Part:
    """A part that is ready when it takes connections on a port of the loopback."""
    address = (LOOPBACK, port)
    return Part(name, command, variables, partial(listens, address), address=address, setting=setting)


def _after_deploying(cfg: DeployConfig, config_file: Path) -> list[Part]:
    told = _by_settings(cfg)
    workers = [
        Part(
            f"{WORKER}{pool.name}",
            [_prefect(), "worker", "start", "--pool", pool.name, "--type", pool.kind, "--name", pool.name],
            {},
            settings=told,
        )
        for pool in cfg.pools
    ]
    if not cfg.ingest.sources:
        return workers  # nothing to watch
    command = [sys.executable, "-m", "flows.cli", "sensor", "--config", str(config_file)]
    watched = {"ingest": cfg.ingest.model_dump(mode="json"), "sensor": cfg.sensor.model_dump(mode="json")}
    return [*workers, Part(SENSOR, command, {}, settings={**told, **watched})]


def _prefect() -> str:
    return str(Path(sys.executable).with_name("prefect"))


def _line(keeper: Keeper, part: Part) -> str:
    """Start a part where it does not run as it should, and say what it does."""
    word = "started"
    if keeper.is_outdated(part):
        if _is_busy(keeper, part.name):
            if keeper.has_moved(part):
                raise ProjectError(
                    f"{part.name} is to serve elsewhere than a run that is at work knows it; wait until that has "
                    f"ended, set {part.setting} back, or stop everything with `marlin down` first"
                )
            return f"runs      {part.name} ({FORMER})"
        keeper.end(part.name)
        word = "restarted"
    return f"{word if keeper.ensure(part) else 'runs':<9} {part.name}"


def _state(keeper: Keeper, part: Part) -> str:
    if keeper.running(part.name) is None:
        return "does not run"
    return "runs" if part.ready is None or part.ready() else "does not answer"


def _without(keeper: Keeper, wanted: Collection[str]) -> list[str]:
    """End what is not wanted any more, and say so."""
    lines = []
    for name in set(keeper.names()) - set(wanted):
        if _is_busy(keeper, name):
            lines.append(f"runs      {name} ({FORMER})")
        elif keeper.end(name):
            lines.append(f"stopped   {name}")
    return lines


def _is_busy(keeper: Keeper, name: str) -> bool:
    """Tell whether a flow run is at work that ends, or goes wrong, with a part."""
    if name == SENSOR:
        return False
    of_all = [other for other in keeper.names() if other.startswith(WORKER)]
    return any(keeper.has_children(worker) for worker in ([name] if name.startswith(WORKER) else of_all))


def _address(cfg: DeployConfig) -> str:
    return cfg.api_url.removesuffix("/api")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # our own address
            return answer.status == 200
    except OSError:
        return False
