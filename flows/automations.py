"""What starts flows beside their schedules, and what notices runs that nobody speaks for any more."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, Posture

from flows.deploy_config import DeployConfig
from flows.events import DATASET_VERSION, ENCODER_PROMOTED, VIDEO_ARRIVED, dataset_resource, registry_resource

PREFIX = "marlin: "
"""Begins the name of each automation of ours."""
TAG = "marlin"
"""Tag of all deployments, and so of their runs."""
PART_TAG = "marlin-part"
"""Tag of runs within another run: watched as that one is, and not told about twice."""
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")}
START_LIMIT_S = 3600.0
"""Seconds in which a run that was handed to its infrastructure has to begin; an image may have to be pulled."""
SENTENCE = (
    '{"text": {{ (flow.name ~ " run " ~ flow_run.name ~ ": " ~ '
    "(flow_run.state.message or flow_run.state.name)) | tojson }}}"
)
"""Body of a notification; what Slack, Mattermost and Teams' workflows take."""


def automations(cfg: DeployConfig, deployments: Mapping[str, UUID], webhook: UUID | None) -> list[AutomationCore]:
    """Return all automations.

    Args:
        cfg: settings.
        deployments: id of each deployment, by its full name.
        webhook: block with the address that failures are told to; None tells nobody.
    """
    dataset, registry = dataset_resource(cfg.ingest.out), registry_resource(cfg.improve.registry)
    ingest, improve = deployments["ingest/marlin"], deployments["improve/marlin"]
    made = [
        _on_event("new videos", VIDEO_ARRIVED, dataset, ingest, cfg.sensor.debounce_s),
        _on_event("new dataset version", DATASET_VERSION, dataset, improve, 0),
        *(
            _on_event(f"new encoder for {task}", ENCODER_PROMOTED, registry, deployments[f"adapt/{task}"], 0)
            for task in (adaptation.task for adaptation in cfg.adaptations)
        ),
        _after_crash("ingest", ingest, cfg.restart_after_s),
        _after_crash("improve", improve, cfg.restart_after_s),
        *_dead(cfg),
    ]
    return made if webhook is None else [*made, _notify(webhook)]


def _on_event(name: str, event: str, resource: str, deployment: UUID, wait_s: float) -> AutomationCore:
    """Run a deployment ``wait_s`` after the first event of a burst, once: it then sees what all of them spoke of."""
    wait = timedelta(seconds=wait_s)
    trigger = EventTrigger(
        expect={event}, match={"prefect.resource.id": resource}, posture=Posture.Reactive, threshold=1, within=wait
    )
    return _automation(name, trigger, RunDeployment(deployment_id=deployment, schedule_after=wait))


def _after_crash(flow: str, deployment: UUID, wait_s: float) -> AutomationCore:
    """Run a deployment again some time after a run of its flow has crashed.

    A new run and not the same one, which its worker reports as crashed once more seconds later.
    """
    wait = timedelta(seconds=wait_s)
    trigger = EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": flow},
        posture=Posture.Reactive, threshold=1, within=wait,
    )  # fmt: skip
    return _automation(f"{flow} crashed", trigger, RunDeployment(deployment_id=deployment, schedule_after=wait))


def _dead(cfg: DeployConfig) -> list[AutomationCore]:
    """Set runs to Crashed that do not beat any more, or never began."""
    alive = {"prefect.flow-run.heartbeat", "prefect.flow-run.Running"}
    beats = timedelta(seconds=2 * cfg.heartbeat_s + 5 + cfg.outage_s)  # a server that is away hears none
    cases = [
        ("no heartbeat", alive, beats, "its heartbeats stopped: it, or its machine, died"),
        (
            "never began",
            {"prefect.flow-run.Pending"},
            timedelta(seconds=START_LIMIT_S),
            "it never began",
        ),
    ]
    return [
        _automation(
            name,
            EventTrigger(
                after=after, expect=alive | ENDED, match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related=_tagged(TAG, PART_TAG), for_each={"prefect.resource.id"}, posture=Posture.Proactive,
                threshold=1, within=within,
            ),
            ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=why),
        )
        for name, after, within, why in cases
    ]  # fmt: skip


def _notify(webhook: UUID) -> AutomationCore:
    trigger = EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut", "Late")},
        match_related=_tagged(TAG), posture=Posture.Reactive, threshold=1, within=timedelta(0),
    )  # fmt: skip
    return _automation("notify", trigger, CallWebhook(block_document_id=webhook, payload=SENTENCE))


def _tagged(*tags: str) -> dict[str, str | list[str]]:
    return {"prefect.resource.role": "tag", "prefect.resource.id": [f"prefect.tag.{tag}" for tag in tags]}


def _automation(
    name: str, trigger: EventTrigger, action: RunDeployment | ChangeFlowRunState | CallWebhook
) -> AutomationCore:
    return AutomationCore(name=f"{PREFIX}{name}", trigger=trigger, actions=[action])
