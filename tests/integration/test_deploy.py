"""``marlin deploy`` against a real server: what it registers; it may be repeated, and be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import PrefectHTTPStatusError
from prefect.testing.utilities import prefect_test_harness

from flows.automations import PREFIX
from flows.deploy import deploy, planned, undeploy
from flows.deploy_config import DeployConfig
from infra.config import load_config
from infra.errors import ConfigError

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
SECRET = "https://hooks.example/services/T0/cAnArY"


@pytest.fixture(scope="module")
def server() -> Iterator[SyncPrefectClient]:
    """A server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=300), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def cfg(monkeypatch: pytest.MonkeyPatch) -> DeployConfig:
    """The settings that infra/deploy ships for Kubernetes, with two adaptations."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MARLIN_WEBHOOK_URL", SECRET)
    return load_config(DeployConfig, ROOT / "infra" / "deploy" / "deploy.yaml", ["adaptations=[{task: deepfake}]"])


def registered(client: SyncPrefectClient) -> dict[str, Any]:
    """{kind:name: id} of all that is ours."""
    found = {f"deployment:{d.name}/{d.flow_id}": d.id for d in client.read_deployments()}
    found |= {f"pool:{pool.name}": pool.id for pool in client.read_work_pools()}
    found |= {f"automation:{a.name}": a.id for a in client.read_automations() if a.name.startswith(PREFIX)}
    return found | {f"limit:{limit.name}": limit.id for limit in client.read_global_concurrency_limits()
                    if limit.name in ("marlin-gpu", "marlin-crawl")}  # fmt: skip


def test_it_may_be_repeated_and_taken_back(server, cfg):
    """Catches schedules that double, watchers that forget what they watch, and leftovers that start runs for ever."""
    deploy(cfg)
    first = registered(server)
    assert len([name for name in first if name.startswith("deployment:")]) == len(planned(cfg))
    assert deploy(cfg) == [plan.full_name for plan in planned(cfg)]
    assert registered(server) == first
    assert "ingest/marlin" in undeploy(cfg)
    assert registered(server) == {}
    assert undeploy(cfg) == []


def test_what_is_registered_is_what_the_settings_say(server, cfg):
    deploy(cfg)
    ingest = server.read_deployment_by_name("ingest/marlin")
    assert [schedule.schedule.cron for schedule in ingest.schedules] == ["0 2 * * *"]
    assert ingest.global_concurrency_limit.limit == 1
    assert ingest.job_variables["env"]["RAY_ADDRESS"] == "marlin-ray-head-svc:6379"
    assert ingest.entrypoint == "flows.ingest.ingest_flow"
    train = server.read_work_pool("marlin-train")
    pod = train.base_job_template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert (train.type, pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == ("kubernetes", "8")
    assert server.read_deployment_by_name("adapt/deepfake").parameters["registry"] == "s3://registry/main"


def test_twins_of_automations_are_removed(server, cfg):
    """Catches runs that are started twice for each event, after two `deploy`s at once."""
    deploy(cfg)
    before = registered(server)
    (there,) = server.read_automations_by_name(f"{PREFIX}new encoder for deepfake")
    twin = AutomationCore.model_validate(there.model_dump(include=set(AutomationCore.model_fields)))
    for _ in range(3):
        server.create_automation(twin)
    deploy(cfg)
    assert len(server.read_automations_by_name(there.name)) == 1
    assert registered(server).keys() == before.keys()


def test_a_change_changes_only_what_it_concerns(server, cfg):
    deploy(cfg)
    before = registered(server)
    changed = cfg.model_copy(update={"ingest_cron": "30 3 * * *", "restart_after_s": 90.0})
    deploy(changed)
    assert registered(server) == before
    ingest = server.read_deployment_by_name("ingest/marlin")
    assert [schedule.schedule.cron for schedule in ingest.schedules] == ["30 3 * * *"]
    deploy(cfg.model_copy(update={"adaptations": ()}))
    assert before.keys() - registered(server).keys() == {name for name in before if "deepfake" in name}
    deploy(changed)
    (crashed,) = server.read_automations_by_name(f"{PREFIX}ingest crashed")
    assert crashed.actions[0].schedule_after.total_seconds() == 90


def test_a_form_refuses_wrong_values(server, cfg):
    """Catches parameters that are no pydantic model for the server, so that a typo is found in the night."""
    deploy(cfg)
    ingest = server.read_deployment_by_name("ingest/marlin")
    for wrong in ({"shard_mb": "wide"}, {"shardmb": 3}, {"track": {"margin": "wide"}}):
        with pytest.raises(PrefectHTTPStatusError):
            server.create_flow_run_from_deployment(ingest.id, parameters={"cfg": wrong})


def test_the_webhook_is_a_secret_and_failures_are_told_to_it(server, cfg):
    """Catches an address with a token in it that everybody who sees the page can read."""
    deploy(cfg)
    (notify,) = server.read_automations_by_name(f"{PREFIX}notify")
    block = server.read_block_document(notify.actions[0].block_document_id, include_secrets=False)
    assert "cAnArY" not in block.model_dump_json()
    assert "cAnArY" in str(server.read_block_document(block.id, include_secrets=True).data)


def test_pools_of_another_kind_and_templates_that_are_none_are_one_sentence(server, cfg, tmp_path):
    deploy(cfg)
    docker = cfg.ingest_pool.model_copy(update={"kind": "docker", "template": ""})
    with pytest.raises(ConfigError, match="is there and of another kind"):
        deploy(cfg.model_copy(update={"ingest_pool": docker}))
    undeploy(cfg)
    deploy(cfg.model_copy(update={"ingest_pool": docker}))
    assert server.read_work_pool("marlin-ingest").type == "docker"
    (tmp_path / "t.yaml").write_text("just: this")
    wrong = cfg.train_pool.model_copy(update={"template": str(tmp_path / "t.yaml")})
    with pytest.raises(ConfigError, match="has no job_configuration and variables"):
        deploy(cfg.model_copy(update={"ingest_pool": docker, "train_pool": wrong}))
    undeploy(cfg)
