"""A Ray cluster of several nodes on loopback, whose nodes can be lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import psutil


@contextlib.contextmanager
def ray_nodes(*cpus: int) -> Iterator[Any]:
    """Yield ``ray.cluster_utils.Cluster`` with a node for each number of CPUs, the head first."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    from infra.ray_session import CLUSTERS

    # As infra.ray_session does: loopback only.
    with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False), patch.dict(os.environ, {CLUSTERS: "0"}):
        head = {"num_cpus": cpus[0], "num_gpus": 0, "object_store_memory": 100 << 20}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for count in cpus[1:]:
                nodes.add_node(num_cpus=count, num_gpus=0, object_store_memory=100 << 20)
            yield nodes
        finally:
            nodes.shutdown()


def raylet(node: Any) -> psutil.Process:
    """Return the process that speaks for a node; what runs on the node descends from it."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def commands(node: Any, word: str) -> dict[psutil.Process, str]:
    """Return what runs on a node and has ``word`` in its command line, which stands beside it."""
    found = {}
    with contextlib.suppress(psutil.Error):
        for process in raylet(node).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[process] = " ".join(process.cmdline())
    return {process: command for process, command in found.items() if word in command}


def lose(node: Any) -> None:
    """Kill -9 all that runs on a node, as when its power fails."""
    first = raylet(node)
    for process in (first, *first.children(), *first.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            process.kill()
