"""What starts flows beside their schedules, and what notices runs that nobody speaks for any more."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import DeploymentEventTrigger, EventTrigger
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, Posture

from flows.deploy_config import DeployConfig
from flows.events import DATASET_VERSION, ENCODER_PROMOTED, VIDEO_ARRIVED, dataset_resource, registry_resource

PREFIX = "marlin: "
"""Begins the name of each automation that belongs to no deployment."""
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
START_LIMIT_S = 3600.0
"""Seconds in which a run that was handed to its infrastructure has to begin; an image may have to be pulled."""
SENTENCE = '{"text": {{ (flow.name ~ " run " ~ flow_run.name ~ ": " ~ flow_run.state.message) | tojson }}}'
"""Body of a notification; what Slack, Mattermost and Teams' workflows take."""


def new_videos(cfg: DeployConfig) -> DeploymentEventTrigger:
    """Start ingestion ``debounce_s`` after the first of a burst of new videos, once."""
    wait = timedelta(seconds=cfg.sensor.debounce_s)
    return DeploymentEventTrigger(
        name=f"{PREFIX}new videos", expect={VIDEO_ARRIVED},
        match={"prefect.resource.id": dataset_resource(cfg.ingest.out)}, posture=Posture.Reactive, threshold=1, within=wait, schedule_after=wait,
    )  # fmt: skip


def new_dataset_version(cfg: DeployConfig) -> DeploymentEventTrigger:
    """See whether an encoder is due when there is a new version."""
    return DeploymentEventTrigger(
        name=f"{PREFIX}new dataset version", expect={DATASET_VERSION},
        match={"prefect.resource.id": dataset_resource(cfg.ingest.out)}, posture=Posture.Reactive, threshold=1,
        within=timedelta(0),
    )  # fmt: skip


def new_encoder(cfg: DeployConfig) -> DeploymentEventTrigger:
    """Adapt an encoder that has gone live."""
    resource = registry_resource(cfg.improve.registry)
    return DeploymentEventTrigger(
        name=f"{PREFIX}new encoder", expect={ENCODER_PROMOTED}, match={"prefect.resource.id": resource},
        posture=Posture.Reactive, threshold=1, within=timedelta(0),
    )  # fmt: skip


def restart(cfg: DeployConfig, flow: str) -> DeploymentEventTrigger:
    """Start a deployment again some time after a run of its flow has crashed.

    A new run and not the same one, which its worker reports as crashed once more seconds later.
    """
    wait = timedelta(seconds=cfg.restart_after_s)
    return DeploymentEventTrigger(
        name=f"{PREFIX}{flow} crashed", expect={"prefect.flow-run.Crashed"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": flow},
        posture=Posture.Reactive, threshold=1, within=wait, schedule_after=wait,
    )  # fmt: skip


def automations(cfg: DeployConfig, webhook: UUID | None) -> list[AutomationCore]:
    """Return those that belong to no deployment: dead runs are set to Crashed, failures are told to the webhook."""
    beats = timedelta(seconds=2 * cfg.heartbeat_s + 5)
    alive = {"prefect.flow-run.heartbeat", "prefect.flow-run.Running"}
    made = [
        _dead(f"{PREFIX}no heartbeat", alive, alive | ENDED, beats, "its heartbeats stopped: it, or its machine, died"),
        _dead(f"{PREFIX}never began", {"prefect.flow-run.Pending"}, alive | ENDED, timedelta(seconds=START_LIMIT_S),
              "it was handed to its infrastructure and never began"),
    ]  # fmt: skip
    if webhook is not None:
        trigger = EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.marlin"},
            posture=Posture.Reactive, threshold=1, within=timedelta(0),
        )  # fmt: skip
        action = CallWebhook(block_document_id=webhook, payload=SENTENCE)
        made.append(AutomationCore(name=f"{PREFIX}notify", trigger=trigger, actions=[action]))
    return made


def _dead(name: str, after: set[str], expect: set[str], within: timedelta, why: str) -> AutomationCore:
    """A run of ours that, after one event, shows none of the expected ones in time is set to Crashed."""
    trigger = EventTrigger(
        after=after, expect=expect, match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.marlin"},
        for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=within,
    )  # fmt: skip
    action = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=why)
    return AutomationCore(name=name, trigger=trigger, actions=[action])
