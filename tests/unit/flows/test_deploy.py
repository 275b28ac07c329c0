"""What is deployed, without a server."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from prefect.events import EventTrigger
from prefect.events.actions import RunDeployment

from flows.automations import automations
from flows.deploy import planned
from flows.deploy_config import DeployConfig
from flows.events import dataset_resource, registry_resource
from model.adapt_config import AdaptConfig


def test_whatever_an_event_starts_has_a_schedule_too():
    """Catches a lost event after which nothing ever starts what it spoke of: a live encoder is never adapted."""
    cfg = DeployConfig(adaptations=(AdaptConfig(task="deepfake"), AdaptConfig(task="gender")), improve_cron="5 4 * * 1")
    plans = {plan.full_name: plan for plan in planned(cfg)}
    ids = {name: uuid.uuid4() for name in plans}
    names = {number: name for name, number in ids.items()}
    started = {
        names[action.deployment_id]
        for automation in automations(cfg, ids, None)
        for action in automation.actions
        if isinstance(action, RunDeployment)
    }
    assert started == {"ingest/marlin", "improve/marlin", "adapt/deepfake", "adapt/gender"}
    assert {name for name, plan in plans.items() if plan.cron} == started
    assert {plans[f"adapt/{task}"].cron for task in ("deepfake", "gender")} == {cfg.improve_cron}


@pytest.fixture
def triggers() -> dict[str, EventTrigger]:
    """What sets off each automation."""
    cfg = DeployConfig(adaptations=(AdaptConfig(task="deepfake"),), heartbeat_s=40)
    ids = {plan.full_name: uuid.uuid4() for plan in planned(cfg)}
    return {made.name.removeprefix("marlin: "): made.trigger for made in automations(cfg, ids, None)}


def test_each_event_is_awaited_of_what_it_speaks_of(triggers):
    """Catches a trigger that no event ever matches: videos come, and everything waits for its schedule."""
    cfg = DeployConfig()
    dataset, registry = dataset_resource(cfg.ingest.out), registry_resource(cfg.improve.registry)
    found = {name: (trigger.expect, trigger.match.root) for name, trigger in triggers.items() if "new" in name}
    assert found == {
        "new videos": ({"marlin.video.arrived"}, {"prefect.resource.id": dataset}),
        "new dataset version": ({"marlin.dataset.version"}, {"prefect.resource.id": dataset}),
        "new encoder for deepfake": ({"marlin.encoder.promoted"}, {"prefect.resource.id": registry}),
    }


def test_a_run_counts_as_dead_after_two_missing_heartbeats(triggers):
    """Catches a patience shorter than the beat, which crashes every run that is well."""
    assert triggers["no heartbeat"].within == timedelta(seconds=2 * 40 + 5)


@pytest.mark.parametrize("name", ["no heartbeat", "never began"])
def test_a_run_that_ended_is_not_found_dead(triggers, name):
    """Catches an alarm for every finished run, since it beats no more; only the server's own rules would refuse it."""
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    assert ended < triggers[name].expect
