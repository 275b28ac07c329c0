"""An ingest on a Ray cluster of three nodes, two of which are lost while it works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from tests.support.ingest_process import shards

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster on loopback: a head and two more nodes, of one CPU each; every node has a raylet of its own."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    from infra.ray_session import CLUSTERS

    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # as infra.ray_session does: loopback only
    monkeypatch.setenv(CLUSTERS, "0")
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 << 20})
    for _ in range(2):
        nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    yield nodes
    nodes.shutdown()


def test_a_node_and_a_raylet_that_are_killed_change_nothing(
    undisturbed: dict[str, bytes], sample_videos: Path, tmp_path: Path, cluster: Any, start: Callable
) -> None:
    """Bug caught: an ingest that ends or hangs with a node; rows dropped or done twice; other bytes."""
    out = tmp_path / "d"
    head, first, second = cluster.list_all_nodes()
    driver = start(sample_videos, out, RAY_ADDRESS=cluster.address)
    assert driver.reaches(lambda: _at_work(first))
    assert _at_work(second) or driver.reaches(lambda: _at_work(second))  # the stages use all nodes
    cluster.remove_node(first, allow_graceful=False)
    assert driver.reaches(lambda: next(out.glob("work/*/*.outcome.json"), None) is not None)
    assert driver.reaches(lambda: _at_work(second))
    _raylet(second).kill()
    code, said = driver.finish()
    assert code == 0, said
    assert 1 <= said.count("Ray lost a worker or a node") <= 4, said
    assert shards(out) == undisturbed
    assert verify_dataset(open_dataset(str(out))) == []
    assert head.any_processes_alive()  # attached to, and left running


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _at_work(node: Any) -> bool:
    """True when a decoding child process runs on the node."""
    with contextlib.suppress(psutil.Error):
        for process in _raylet(node).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "infra.sandbox" in " ".join(process.cmdline()):
                    time.sleep(1.0)  # let it get into its work
                    return True
    return False
