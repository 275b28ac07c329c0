"""``marlin deploy``: what the server is told about our flows. Run again, it changes what differs and nothing else."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.flows import EntrypointType
from prefect.schedules import Cron, Schedule
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type
from pydantic import BaseModel, ValidationError

from flows.adapt import adapt_flow
from flows.automations import PREFIX, TAG, automations
from flows.deploy_config import DeployConfig, PoolConfig
from flows.end_to_end import end_to_end_flow
from flows.improve import improve_flow
from flows.ingest import ingest_flow
from flows.leases import held
from flows.notify import forget_webhook, store_webhook
from flows.pretrain import pretrain_flow
from flows.tables import ablation_flow
from flows.tasks import CRAWL, GPU
from infra.errors import ConfigError, ProjectError

logger = logging.getLogger(__name__)

LEASE_WRITTEN_S = 1.0
CLIENT_RETRIES = "8"
"""Times a flow run asks the server again, after 2, 4, … 256 s: 8 minutes. A run that cannot renew its place in the
limit of its deployment is cancelled; it tries that three times over."""


def deploy(cfg: DeployConfig, server_home: Path | None = None) -> list[str]:
    """Tell the server of all pools, limits, deployments and automations; return the deployments' names.

    Args:
        cfg: settings.
        server_home: the server's PREFECT_HOME, where it is of this machine and keeps its leases with ``flows.leases``:
            places in limits that no lease holds are then given back.

    Raises:
        ConfigError: a pool's template cannot be read, or a schedule is none.
        ProjectError: no server answers, or it refuses.
    """
    check_schedules(cfg)
    try:
        with get_client(sync_client=True) as client:
            for pool in cfg.pools:
                _pool(client, pool)
            for name, limit in ((GPU, cfg.gpu_jobs), (CRAWL, cfg.crawls)):
                client.upsert_global_concurrency_limit_by_name(name, limit)
            if server_home is not None:
                _give_back_lost_places(client, server_home)
            deployments = {plan.full_name: _apply(cfg, plan) for plan in planned(cfg)}
            _keep_deployments(client, deployments.values())
            webhook = store_webhook(os.environ.get("MARLIN_WEBHOOK_URL"))
            _keep_automations(client, automations(cfg, deployments, webhook))
            return list(deployments)
    except httpx.HTTPError as error:
        raise ProjectError(
            f"the Prefect server {_server()} does not do it ({error}); is it running? `marlin up`"
        ) from error


def undeploy(cfg: DeployConfig) -> list[str]:
    """Take back what ``deploy`` told the server; return the deployments that are gone. Runs and their history stay.

    Raises:
        ProjectError: no server answers.
    """
    try:
        with get_client(sync_client=True) as client:
            _keep_automations(client, [])
            forget_webhook()
            gone = _keep_deployments(client, [])
            for pool in cfg.pools:
                _ignoring_absence(client.delete_work_pool, pool.name)
            for limit in (GPU, CRAWL):
                _ignoring_absence(client.delete_global_concurrency_limit_by_name, limit)
    except httpx.HTTPError as error:
        raise ProjectError(f"the Prefect server {_server()} does not do it ({error}); is it running?") from error
    return gone


def _server() -> str:
    return os.environ.get("PREFECT_API_URL", "(PREFECT_API_URL is not set)")


@dataclass(frozen=True)
class Planned:
    """A deployment: a flow with a name, where it runs, its parameters, and its schedule."""

    flow: Flow[..., Any]
    pool: PoolConfig
    parameters: dict[str, Any]
    cron: str | None = None
    name: str = TAG

    @property
    def full_name(self) -> str:
        """``flow/name``, as Prefect calls it."""
        return f"{self.flow.name}/{self.name}"

    def schedule(self, timezone: str) -> Schedule | None:
        """When it runs by itself.

        Raises:
            ConfigError: what stands there is not in the words of cron.
        """
        if self.cron is None:
            return None
        try:
            CronSchedule(cron=self.cron, timezone=timezone)
        except ValidationError as error:
            raise ConfigError(
                f"{self.cron!r} is no schedule of {self.full_name}: {error.errors()[0]['msg']}; "
                "write minute, hour, day, month and weekday, as '0 2 * * *'"
            ) from error
        return Cron(self.cron, timezone=timezone)


def planned(cfg: DeployConfig) -> list[Planned]:
    """Return all deployments."""
    improve, runs, training = cfg.improve, cfg.improve.runs, cfg.train_pool
    return [
        Planned(ingest_flow, cfg.ingest_pool, {"cfg": cfg.ingest, "runs": runs}, cfg.ingest_cron),
        Planned(improve_flow, training, {"cfg": improve}, cfg.improve_cron),
        *(Planned(adapt_flow, training, {"cfg": adaptation, "runs": runs, "registry": improve.registry},
                  cfg.improve_cron, adaptation.task) for adaptation in cfg.adaptations),
        Planned(pretrain_flow, training, {"cfg": improve.pretrain, "runs": runs}),
        Planned(end_to_end_flow, training, {}),
        Planned(ablation_flow, training, {}),
    ]  # fmt: skip


def check_schedules(cfg: DeployConfig) -> None:
    """Raise ConfigError for a schedule that the server would refuse."""
    for plan in planned(cfg):
        plan.schedule(cfg.timezone)


def _apply(cfg: DeployConfig, plan: Planned) -> UUID:
    made = plan.flow.to_deployment(
        plan.name,
        parameters={
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in plan.parameters.items()
        },
        schedule=plan.schedule(cfg.timezone),
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        tags=[TAG],
        work_pool_name=plan.pool.name,
        job_variables=_variables(cfg, plan.pool),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(UUID, cast(RunnerDeployment, made).apply())


def _variables(cfg: DeployConfig, pool: PoolConfig) -> dict[str, Any]:
    environment = {
        "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,model,infra,flows",
        "PREFECT_CLIENT_MAX_RETRIES": CLIENT_RETRIES,
        **cfg.environment,
        **pool.variables.get("env", {}),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(cfg.heartbeat_s),  # the automations count on these two
        "MARLIN_LEASE_S": str(cfg.outage_s),
    }
    here = {"working_dir": str(Path.cwd()), "stream_output": False}  # with a console it dies with the worker
    return {**(here if pool.kind == "process" else {}), **pool.variables, "env": environment}


def _give_back_lost_places(client: SyncPrefectClient, home: Path) -> None:
    """Count the places of our limits by their leases where the server counts more: nothing else ever gives those back.

    The server counts a place before it writes the lease, so that two looks have to agree.
    """
    lost = _lost_places(client, home)
    if lost:
        time.sleep(LEASE_WRITTEN_S)
        for name, taken in lost.items() & _lost_places(client, home).items():
            logger.warning("places in %s were taken by no run any more, and are given back: %d are left", name, taken)
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=taken))


def _lost_places(client: SyncPrefectClient, home: Path) -> dict[str, int]:
    """{limit: places that leases hold} where the server counts more."""
    limits = client.read_global_concurrency_limits(limit=200)
    places = held(home)
    if places is None:
        return {}
    ours = [limit for limit in limits if limit.name in (GPU, CRAWL) or limit.name.startswith("deployment:")]
    return {limit.name: places[limit.id] for limit in ours if limit.active_slots > places[limit.id]}


def _pool(client: SyncPrefectClient, pool: PoolConfig) -> None:
    template = _template(pool)
    try:
        client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.kind, base_job_template=template))
    except ObjectAlreadyExists:
        if client.read_work_pool(pool.name).type != pool.kind:
            raise ConfigError(f"pool {pool.name} is there and of another kind; `marlin undeploy` first") from None
        client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template))


def _template(pool: PoolConfig) -> dict[str, Any]:
    if not pool.template:
        return run_coro_as_sync(get_default_base_job_template_for_infrastructure_type(pool.kind)) or {}
    try:
        tree = yaml.safe_load(Path(pool.template).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"the template {pool.template} of pool {pool.name} cannot be read: {error}") from error
    if not isinstance(tree, dict) or not {"job_configuration", "variables"} <= tree.keys():
        raise ConfigError(f"the template {pool.template} has no job_configuration and variables; see infra/deploy")
    return tree


def _keep_deployments(client: SyncPrefectClient, wanted: Collection[UUID]) -> list[str]:
    """Delete those of ours that are not wanted (any more), and return their names."""
    ours = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])))
    gone = [found for found in ours if found.id not in wanted]
    names = [f"{client.read_flow(found.flow_id).name}/{found.name}" for found in gone]
    for found in gone:
        client.delete_deployment(found.id)
    return names


def _keep_automations(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> None:
    """Make ours the wanted ones. Those that are right are left alone: a new one forgets the heartbeats it has seen."""
    ours = [found for found in client.read_automations() if found.name.startswith(PREFIX)]
    there = {found.name: found for found in reversed(ours)}  # the first of a name, as two `deploy`s at once make two
    for automation in wanted:
        found = there.get(automation.name)
        if found is None:
            client.create_automation(automation)
        elif AutomationCore.model_validate(found.model_dump(include=set(AutomationCore.model_fields))) != automation:
            client.update_automation(found.id, automation)
    kept = {there[automation.name].id for automation in wanted if automation.name in there}
    for found in ours:
        if found.id not in kept:
            client.delete_automation(found.id)


def _ignoring_absence(delete: Any, name: str) -> None:
    with contextlib.suppress(ObjectNotFound):
        delete(name)
