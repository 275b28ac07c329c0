"""What is deployed, without a server."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from prefect.events import EventTrigger
from prefect.events.actions import RunDeployment

from flows.automations import automations
from flows.deploy import _variables, planned
from flows.deploy_config import DeployConfig, PoolConfig
from flows.events import dataset_resource, registry_resource
from flows.platform import environment
from infra.config import validate_config
from infra.errors import ConfigError
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


def test_a_run_counts_as_dead_after_two_missing_heartbeats_and_an_outage(triggers):
    """Catches a patience shorter than the beat, or than a server is away, which crashes every run that is well."""
    assert triggers["no heartbeat"].within == timedelta(seconds=2 * 40 + 5 + 900)


@pytest.mark.parametrize("name", ["no heartbeat", "never began"])
def test_a_run_that_ended_is_not_found_dead(triggers, name):
    """Catches an alarm for every finished run, since it beats no more; only the server's own rules would refuse it."""
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    assert ended < triggers[name].expect


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ingest": {"sources": ["https://cdn.example/v?id=42&sig=abc"]}}, r"v\?id=…&sig=… has a login or a query"),
        ({"ingest": {"sources": ["HTTP://me:word@cam.example/1.mp4"]}}, r"cam.example/1.mp4 has a login or a query"),
        ({"adaptations": [{"task": "gender"}, {"task": "gender"}]}, "gender is there 2 times"),
        ({"adaptations": [{}]}, "an adaptation has no task"),
        ({"timezone": "Europe/Nowhere"}, "'Europe/Nowhere' is no time zone"),
        ({"timezone": "../../etc/passwd"}, "is no time zone"),
        ({"improve": {"adapt": {"task": "emotion"}}}, "adapt.task is 'emotion' and the gate compares"),
        ({"improve": {"adapt": {"pictures": 0}}}, "adapt.task is '' and the gate compares"),
        ({"improve": {"adapt": {"task": "deepfake", "backbone": "r3d"}}}, "adapt.backbone is r3d"),
        ({"improve": {"gate": {"mode": "FT"}, "adapt": {"task": "deepfake", "finetune": {"enabled": False}}}},
         "gate.mode is FT and adapt.finetune.enabled is false"),
        ({"train_pool": {"name": "t", "variables": {"env": {"AWS_SECRET_ACCESS_KEY": "x"}}}}, "looks like a secret"),
        ({"train_pool": {"name": "t", "variables": {"env": ["A=b"]}}}, "write it as NAME: value"),
    ],
)  # fmt: skip
def test_what_would_break_in_some_night_is_refused_at_once(settings, said):
    """Catches an address stored without its signature, a lost deployment, days of training that nothing can judge."""
    with pytest.raises(ConfigError, match=said) as caught:
        validate_config(DeployConfig, settings, where="the test")
    assert "\n" not in str(caught.value)
    assert "word" not in str(caught.value)


def test_sources_without_secrets_are_taken():
    sources = ["https://cdn.example/a.mp4", "videos", "s3://bucket/what?", "list.csv"]
    cfg = validate_config(DeployConfig, {"ingest": {"sources": sources}}, where="the test")
    assert list(cfg.ingest.sources) == sources


@pytest.mark.parametrize("cron", ["nightly", "0 25 * * *", "* * * *", ""])
def test_a_schedule_that_is_none_is_one_sentence_before_anything_is_started(marlin, tmp_path, monkeypatch, cron):
    """Catches a traceback after a minute, with the server up and half of the deployments registered."""
    monkeypatch.setattr("flows.platform._before_deploying", lambda cfg, work: pytest.fail("something is started"))
    for name, value in environment(DeployConfig(work=str(tmp_path / "work"))).items():
        monkeypatch.setenv(name, value)  # `up` sets them, and they are unset again after the test
    said = marlin("up", "work=work", f"ingest_cron={cron!r}")
    assert f"{cron!r} is no schedule of ingest/marlin" in said.sentence
    assert not (tmp_path / "work" / "deploy.yaml").exists()


def test_variables_of_a_pool_are_added_to_the_others():
    """Catches a pool whose runs beat at another pace than they are watched at, and so are all found dead."""
    pool = PoolConfig(name="t", variables={"env": {"NCCL_DEBUG": "INFO", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "600"}})
    cfg = DeployConfig(train_pool=pool, environment={"NCCL_DEBUG": "WARN", "A": "b"}, heartbeat_s=40, outage_s=300)
    variables = _variables(cfg, pool)
    assert variables["stream_output"] is False
    env = variables["env"]
    assert (env["NCCL_DEBUG"], env["A"], env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == ("INFO", "b", "40")
    assert env["MARLIN_LEASE_S"] == "300.0"
