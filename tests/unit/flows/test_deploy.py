"""What is deployed, without a server."""

from __future__ import annotations

import uuid

from prefect.events.actions import RunDeployment

from flows.automations import automations
from flows.deploy import planned
from flows.deploy_config import DeployConfig
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
