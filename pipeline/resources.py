"""How many workers each stage gets and what each books: a pure function of the settings and of the cluster's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from infra.errors import ConfigError
from pipeline.config import IngestConfig, StageResources

HEAVY, LIGHT = 0.9, 0.05
"""Share of a CPU that is booked for TrackFaces, and for each of the two stages that must always fit beside it."""
GPU_SHARE = 0.5
"""Share of a GPU that is booked for each of the two stages that can use one."""
_ROUNDING = 1e-6


class Node(NamedTuple):
    """CPUs and GPUs of one node of the cluster."""

    cpus: float
    gpus: float


class Placement(NamedTuple):
    """Most workers of a stage, and the CPUs and GPUs that each books."""

    workers: int
    cpus: float
    gpus: float


class Placements(NamedTuple):
    """One for each stage of the job."""

    track_faces: Placement
    parse_regions: Placement
    write_shard: Placement


def place(cfg: IngestConfig, videos: int, nodes: Sequence[Node]) -> Placements:
    """Decide the workers of each stage, such that one of each always fits and the job never waits for room.

    Args:
        cfg: ``workers`` wanted (0: one per CPU), and what ``resources`` books for each.
        videos: rows to treat; more workers than these are useless.
        nodes: living nodes of the cluster.

    Raises:
        ConfigError: no node has room for a worker of some stage.
    """
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    workers = max(min(cfg.workers or int(cpus), videos), 1)
    share = min(1.0, cpus / workers)
    uses_gpu = cfg.faces.kind != "embedded" and cfg.faces.device != "cpu"
    gpu = min(GPU_SHARE, GPU_SHARE * gpus / workers) if uses_gpu else 0.0

    def need(stage: StageResources, cpu_share: float, gpu: float) -> Node:
        return Node(cpu_share * share if stage.cpus is None else stage.cpus, gpu if stage.gpus is None else stage.gpus)

    track = need(cfg.resources.track_faces, HEAVY, gpu)
    parse = need(cfg.resources.parse_regions, LIGHT, gpu)
    write = need(cfg.resources.write_shard, LIGHT, 0.0)
    free = list(nodes)
    for name, one in (("write_shard", write), ("parse_regions", parse)):
        free = _book(name, one, free)
    workers = min(workers, sum(_slots(track, node) for node in free))
    if not workers:
        raise _no_room("track_faces", track, nodes)
    return Placements(Placement(workers, *track), Placement(workers, *parse), Placement(1, *write))


def _book(name: str, one: Node, free: list[Node]) -> list[Node]:
    """Take room for one worker from the node that has the most CPUs left."""
    for index in sorted(range(len(free)), key=lambda index: -free[index].cpus):
        if _slots(one, free[index]):
            left = Node(free[index].cpus - one.cpus, free[index].gpus - one.gpus)
            return [*free[:index], left, *free[index + 1 :]]
    raise _no_room(name, one, free)


def _slots(one: Node, node: Node) -> int:
    """How many workers fit on a node."""
    by_cpus = int((node.cpus + _ROUNDING) / one.cpus)
    return min(by_cpus, int((node.gpus + _ROUNDING) / one.gpus)) if one.gpus else by_cpus


def _no_room(name: str, one: Node, nodes: Sequence[Node]) -> ConfigError:
    have = "; ".join(f"{node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes) or "none"
    return ConfigError(
        f"no node has room for a worker of resources.{name} ({one.cpus:g} CPUs, {one.gpus:g} GPUs) beside the other "
        f"stages; nodes have: {have}. Book less, or add a node"
    )
