"""Settings of ``marlin deploy`` and of what it starts: which flows run where, when, and how many at a time.

Secrets are never settings: they come from the environment of the processes, or from Prefect's blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from flows.config import ImproveConfig
from infra.config import BaseConfig
from infra.urls import shown_url
from model.adapt_config import AdaptConfig
from pipeline.config import IngestConfig

_SECRET = re.compile(
    r"^(?!.*_(FILE|SOCK)$)(?!.*_DISABLE_).*"  # these say where one is, and that there is none
    r"(SECRET|CREDENTIAL|PASS(WORD|WD|PHRASE|CODE)|AUTHORI[SZ]ATION|WEBHOOK|CONNECTION_(URL|STRING)"
    r"|((?<!BY)PASS|_PWD|TOKENS?|(?<!PUBLIC_)KEYS?|AUTH(?!_MODE$))(?![A-Z]))",  # not KEYBOARD, AUTHOR, TOKENIZERS
    re.IGNORECASE,
)
_PROXY = re.compile(r"_PROXY$", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/?#\s]+@")
"""A user, and mostly a password, in an address: ``http://user:password@host``; a proxy's needs no ``http://``."""


def refuse_secrets(environment: Mapping[str, Any]) -> None:
    """Raise ValueError where a variable looks like a secret."""
    for name, value in environment.items():
        text = str(value)
        if _SECRET.search(name) or _LOGIN.search(text) or ("@" in text and _PROXY.search(name)):
            raise ValueError(
                f"{name} looks like a secret, and these settings are stored and shown; "
                "set it in the environment of the worker"
            )


class PoolConfig(BaseConfig):
    """A work pool: where flow runs are executed."""

    name: str
    """Its name; deployments of both kinds may share one."""
    kind: Literal["process", "docker", "kubernetes"] = "process"
    """``process`` runs on the worker's machine, ``docker`` and ``kubernetes`` start a container for each run."""
    template: str = ""
    """YAML file with the pool's base job template (infra/deploy has one with GPUs); empty takes Prefect's."""
    variables: dict[str, Any] = {}
    """Job variables of this kind of pool: ``image``, ``namespace``, ``memory_limit``, …; ``env`` adds to the settings'
    ``environment``."""

    @field_validator("variables")
    @classmethod
    def _no_secrets(cls, variables: dict[str, Any]) -> dict[str, Any]:
        env = variables.get("env", {})
        if not isinstance(env, dict):
            raise ValueError(f"env is {env!r}; write it as NAME: value")
        refuse_secrets(env)
        return variables


class SensorConfig(BaseConfig):
    """How new videos are noticed."""

    poll_s: float = Field(default=60.0, ge=0.5)
    """Seconds between two listings of the sources."""
    debounce_s: float = Field(default=300.0, ge=1)
    """Seconds from the first new video to the ingest, which then takes all that have come."""


class DeployConfig(BaseConfig):
    """Settings of ``marlin deploy``, ``undeploy``, ``up``, ``down``, ``status`` and ``sensor``."""

    work: str = "work/platform"
    """Folder of ``marlin up``: logs, process ids, Prefect's database."""
    ingest: IngestConfig = IngestConfig()
    """Ingestion; its sources are what the sensor watches."""
    improve: ImproveConfig = ImproveConfig()
    """New encoders; its dataset is ``ingest.out``."""
    adaptations: tuple[AdaptConfig, ...] = ()
    """What each encoder is adapted to when it goes live; weights and dataset version are set by the flow."""
    ingest_pool: PoolConfig = PoolConfig(name="marlin-ingest")
    """Where ingestion runs."""
    train_pool: PoolConfig = PoolConfig(name="marlin-train")
    """Where pretraining and adaptation run."""
    ingest_cron: str = "0 2 * * *"
    """When ingestion runs whether or not an event came."""
    improve_cron: str = "0 4 * * 0"
    """When it is looked whether a new encoder is due, or the live one not yet adapted, whether or not an event came."""
    timezone: str = "UTC"
    """Time zone of both."""
    sensor: SensorConfig = SensorConfig()
    """How new videos are noticed."""
    heartbeat_s: int = Field(default=30, ge=30)
    """Seconds between heartbeats of a flow run; after two missing ones and ``outage_s`` it counts as crashed."""
    outage_s: float = Field(default=900, ge=60, le=1800)
    """Seconds that the server may be away without a run being taken for dead. For as long a run that is dead keeps its
    places in ``gpu_jobs`` and ``crawls``."""
    restart_after_s: float = Field(default=60.0, ge=10)
    """Seconds from a crash to the next run of the same deployment."""
    gpu_jobs: int = Field(default=1, ge=1)
    """Trainings and adaptations at a time."""
    crawls: int = Field(default=1, ge=1)
    """Ingests that fetch at a time, over all deployments of this server."""
    environment: dict[str, str] = {}
    """Variables of all flow runs that are no secret: ``AWS_ENDPOINT_URL``, ``AWS_CA_BUNDLE``, ``HTTPS_PROXY``,
    ``RAY_ADDRESS``, … Keys and passwords are inherited from the worker's environment instead."""
    host: str = "127.0.0.1"
    """Address of the Prefect server of ``marlin up``. It has no password: anything but loopback opens it to all who
    reach it."""
    port: int = Field(default=4200, ge=1, le=65535)
    """Port of the Prefect server."""
    ray_port: int = Field(default=0, ge=0, le=65535)
    """Port of a Ray head that ``marlin up`` keeps running; with 0 each ingest starts and stops its own."""
    store_port: int = Field(default=0, ge=0, le=65535)
    """Port of an S3-compatible store (MinIO, where it is installed) that ``marlin up`` keeps running; 0 starts none."""

    @property
    def api_url(self) -> str:
        """Address of the API of the server that ``marlin up`` starts."""
        return f"http://{self.host}:{self.port}/api"

    @property
    def pools(self) -> tuple[PoolConfig, ...]:
        """The pools, each once."""
        return tuple({pool.name: pool for pool in (self.ingest_pool, self.train_pool)}.values())

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        refuse_secrets(environment)
        return environment

    @field_validator("ingest")
    @classmethod
    def _sources_that_are_shown_whole(cls, ingest: IngestConfig) -> IngestConfig:
        """What is stored would lack the secret parts, and ingestion would ask for another address."""
        for source in ingest.sources:
            is_address = source.lower().startswith(("http://", "https://"))
            if is_address and ("?" in source or "@" in urlsplit(source).netloc):
                raise ValueError(
                    f"the source {shown_url(source)} has a login or a query, and these settings are stored and shown; "
                    "put it into a manifest file, and name that as the source"
                )
        return ingest

    @field_validator("adaptations")
    @classmethod
    def _one_of_each_task(cls, adaptations: tuple[AdaptConfig, ...]) -> tuple[AdaptConfig, ...]:
        tasks = Counter(adaptation.task for adaptation in adaptations)
        if "" in tasks:
            raise ValueError("an adaptation has no task; name one, e.g. deepfake")
        for task, count in tasks.items():
            if count > 1:
                raise ValueError(f"{task} is there {count} times, and a task has one deployment; leave one of them")
        return adaptations

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{timezone!r} is no time zone; write one as Europe/Berlin or UTC") from error
        return timezone

    @model_validator(mode="after")
    def _one_dataset(self) -> Self:
        dataset = self.improve.pretrain.data.dataset
        if dataset != self.ingest.out:
            raise ValueError(
                f"improve.pretrain.data.dataset is {dataset} and ingest.out is {self.ingest.out}; set both to the same"
            )
        if self.ingest_pool.name == self.train_pool.name and self.ingest_pool != self.train_pool:
            raise ValueError(f"the two pools share the name {self.ingest_pool.name} and differ; give them two names")
        return self
