"""Images, compose file and manifests, as far as can be told without an engine or a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from flows import leases, processes
from flows.deploy_config import DeployConfig
from infra.config import load_config

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "infra" / "deploy"
KUBERNETES = "1.33"
POOLS = ("ingest-pool.yaml", "train-pool.yaml")
MANIFESTS = sorted(path for path in DEPLOY.glob("*.yaml") if path.name not in (*POOLS, "deploy.yaml"))
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
LOCK = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def _documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}:{document['kind']}/{document['metadata']['name']}", document
    for name in POOLS:
        yield f"{name}:Job", _job(name)


def _job(name: str) -> dict[str, Any]:
    """The manifest that a pool's template makes of a flow run."""
    template = yaml.safe_load((DEPLOY / name).read_text())
    fields = template["variables"]["properties"]
    values = {key: field["default"] for key, field in fields.items() if "default" in field}
    values |= {"name": "run", "command": ["prefect", "flow-run", "execute"], "env": [{"name": "A", "value": "b"}],
               "labels": {"a": "b"}, "service_account_name": "default"}  # fmt: skip
    return apply_values(template["job_configuration"]["job_manifest"], values)


DOCUMENTS = dict(_documents())


def _pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Pod templates of a manifest."""
    if document["kind"] == "RayCluster":
        spec = document["spec"]
        return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    template = document.get("spec", {}).get("template")
    return [template] if template else []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_manifests_are_what_kubernetes_takes(name):
    """Catches a field that is misspelt or in the wrong place, which a server would drop or refuse."""
    document = DOCUMENTS[name]
    if document["kind"] == "RayCluster":  # a kind of KubeRay's: its pods are Kubernetes' own
        assert document["apiVersion"] == "ray.io/v1"
        assert document["spec"]["rayVersion"] == LOCK["ray"]
        for pod in _pods(document):
            wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
            kubernetes_validate.validate(wrapped, KUBERNETES, strict=True)
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_validation_can_fail():
    wrong = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name_of": "c"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if _pods(document)])
def test_every_pod_says_what_it_needs_and_has_no_rights_to_spare(name):
    """Catches a pod that starves its neighbours, runs as root, or has an image that changes under it."""
    for pod in _pods(DOCUMENTS[name]):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "marlin"  # or network policies miss it
        for container in pod["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert re.search(r":\d", container["image"]), container["image"]
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def test_what_nobody_allowed_is_refused_and_policies_meet_pods():
    """Catches a policy whose selector no pod has (a typo opens or closes a door silently)."""
    policies = {key: doc for key, doc in DOCUMENTS.items() if doc["kind"] == "NetworkPolicy"}
    (closed,) = [doc for key, doc in policies.items() if key.endswith("/refuse-all")]
    ours = {"matchLabels": {"app.kubernetes.io/part-of": "marlin"}}  # not Prefect's server and its database
    assert closed["spec"] == {"podSelector": ours, "policyTypes": ["Ingress", "Egress"]}
    pods = [pod["metadata"]["labels"] for document in DOCUMENTS.values() for pod in _pods(document)]
    server = {"app.kubernetes.io/name": "prefect-server"}  # of its own chart
    for key, policy in policies.items():
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        assert any(wanted.items() <= labels.items() for labels in (*pods, server)), key


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if _pods(document)])
def test_a_pod_with_keys_of_the_store_knows_where_it_is(name):
    """Catches an ingest or a training that asks Amazon for the bucket of another store."""
    for pod in _pods(DOCUMENTS[name]):
        for container in pod["spec"]["containers"]:
            sources = [next(iter(source.values()))["name"] for source in container.get("envFrom", ())]
            assert ("marlin-s3" in sources) == ("marlin-store" in sources)
    (store,) = [document for key, document in DOCUMENTS.items() if key.endswith("ConfigMap/marlin-store")]
    assert set(store["data"]) == {"AWS_ENDPOINT_URL"}


def test_pods_of_ray_are_probed_by_what_they_have():
    """Catches pods that are never ready: KubeRay's own probes ask ray[default], with wget."""
    for pod in _pods(DOCUMENTS["ray-cluster.yaml:RayCluster/marlin-ray"]):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert pod["spec"]["containers"][0][probe]["exec"]["command"][0] in ("ray", "test")


def test_who_asks_the_cluster_for_pods_may():
    """Catches an autoscaler or a worker that is cut off from Kubernetes, and one that watches all namespaces."""
    policy = DOCUMENTS["network-policies.yaml:NetworkPolicy/kubernetes"]["spec"]["podSelector"]["matchLabels"]
    worker = DOCUMENTS["prefect-worker.yaml:Deployment/marlin-worker"]
    askers = [_pods(DOCUMENTS["ray-cluster.yaml:RayCluster/marlin-ray"])[0], *_pods(worker)]
    assert all(policy.items() <= pod["metadata"]["labels"].items() for pod in askers)
    for container in askers[1]["spec"]["containers"]:
        assert {"name": "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES", "value": "marlin"} in container["env"]


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_template_uses_what_it_declares(name):
    """Catches a placeholder that Prefect would leave standing in the job."""
    template = yaml.safe_load((DEPLOY / name).read_text())
    used = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert used == set(template["variables"]["properties"])


@pytest.mark.parametrize("path", [DEPLOY / "deploy.yaml", ROOT / "docker" / "deploy.yaml"], ids=str)
def test_settings_of_deployments_load_and_their_pools_are_served(path):
    """Catches a pool that no worker polls: its runs would be late for ever."""
    cfg = load_config(DeployConfig, path)
    text = "\n".join(file.read_text() for file in (*MANIFESTS, ROOT / "docker" / "compose.yaml"))
    for pool in cfg.pools:
        assert f"--pool, {pool.name}, --type, {pool.kind}" in text
        assert not pool.template or (ROOT / pool.template).exists()


def test_the_dockerfile_is_linted():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "-"], input=DOCKERFILE, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_are_pinned_and_do_not_run_as_root():
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    names = [stage.split()[2] for stage in stages]
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-", DOCKERFILE, re.MULTILINE)
    for stage in stages:
        base = stage.split()[0]
        assert base in (*names, "python:${PYTHON}"), base
    for stage in stages[-3:]:
        assert re.search(r"^USER \d+$", stage, re.MULTILINE), stage
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in copied.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / ".dockerignore").read_text()


SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KEYS = {
    "image", "build", "restart", "networks", "security_opt", "cap_drop", "volumes", "environment", "entrypoint",
    "command", "depends_on", "healthcheck", "ports", "shm_size", "deploy", "profiles", "logging",
    "stop_grace_period",
}  # fmt: skip


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_whole(name):
    """Catches a dependency that never becomes healthy, a volume that nothing declares, an open port, a stray key."""
    service = SERVICES[name]
    assert service.keys() <= KEYS
    assert re.search(r":\S*\d", service["image"]) or service["image"] in _built(), service["image"]
    if "build" in service:
        assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", DOCKERFILE, re.MULTILINE)
    assert set(service["networks"]) <= COMPOSE["networks"].keys()
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (ROOT / "docker" / source).exists(), source
    for other, how in service.get("depends_on", {}).items():
        needed = SERVICES[other]
        assert how["condition"] != "service_healthy" or "healthcheck" in needed
        assert how["condition"] != "service_completed_successfully" or needed["restart"] in ("no", "on-failure")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_a_trainer_that_is_stopped_has_the_time_to_save():
    """Catches a container whose worker tells its trainings nothing, or that is killed before they have saved."""
    for name in ("trainer", "trainer-gpu"):
        service = SERVICES[name]
        assert service["entrypoint"] == ["tini", "--", "python", "-m", "flows.worker", "prefect"]
        minutes = int(service["stop_grace_period"].removesuffix("m"))
        assert minutes * 60 > processes.GRACE_S + processes.SAVE_S


def test_nodes_of_ray_agree_on_the_token_and_share_the_host_once():
    """Catches a driver that Ray turns away, and two nodes that each promise all CPUs of the host."""
    nodes = [SERVICES[name]["environment"] for name in ("ray-head", "ray-worker", "worker")]
    assert {(node["RAY_AUTH_MODE"], node["RAY_AUTH_TOKEN"][:11]) for node in nodes} == {("token", "${RAY_TOKEN")}
    assert "deploy" not in SERVICES["ray-worker"]


def test_leases_outlive_the_server():
    """Catches a container that is made anew, after which all runs are cancelled and the limits stay full."""
    service = SERVICES["prefect"]
    environment, (volume,) = service["environment"], service["volumes"]
    assert environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"] == leases.__name__
    name, _, folder = volume.partition(":")
    assert name in COMPOSE["volumes"]
    assert environment["PREFECT_HOME"].startswith(f"{folder}/")
    assert f"--create-home --uid 10001 {Path(folder).name}" in DOCKERFILE  # so that the server may write there


def _built() -> set[str]:
    return {service["image"] for service in SERVICES.values() if "build" in service}


def test_compose_holds_no_secret_and_asks_for_all():
    """Catches a password in the file, and one that defaults to nothing."""
    text = (ROOT / "docker" / "compose.yaml").read_text()
    example = set(re.findall(r"^([A-Z_]+)=$", (ROOT / "docker" / "example.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == example
    for name in example - {"MARLIN_WEBHOOK_URL"}:
        assert f"${{{name}:?" in text, f"{name} may be empty"
    for service in SERVICES.values():
        for key, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|USER$", key) and key != "POSTGRES_USER":
                assert value.startswith("${"), key
