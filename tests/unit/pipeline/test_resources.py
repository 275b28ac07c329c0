"""How many workers each stage gets, and that one of each always finds room."""

from __future__ import annotations

import pytest

from infra.errors import ConfigError
from pipeline.config import FacexlibFaces, IngestConfig, ResourceConfig, StageResources
from pipeline.resources import Node, place


@pytest.mark.parametrize("nodes", [[Node(1, 0)], [Node(2, 0)], [Node(1, 0)] * 3, [Node(64, 8), Node(8, 0)]])
@pytest.mark.parametrize("workers", [0, 1, 7])
@pytest.mark.parametrize("faces", [FacexlibFaces(), FacexlibFaces(device="cpu")])
def test_all_workers_of_the_heavy_stage_fit_beside_one_of_each_other(
    nodes: list[Node], workers: int, faces: FacexlibFaces
) -> None:
    """Bug caught: bookings that leave no room for the next stage, so that the job waits for ever."""
    at = place(IngestConfig(workers=workers, faces=faces), 1000, nodes)
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    booked = at.track_faces.workers * at.track_faces.cpus + at.parse_regions.cpus + at.write_shard.cpus
    assert booked <= cpus + 1e-6
    assert at.track_faces.workers * at.track_faces.gpus + at.parse_regions.gpus <= gpus + 1e-6
    assert 1 <= at.track_faces.workers <= (workers or cpus)
    assert at.write_shard.workers == 1


def test_no_more_workers_than_videos() -> None:
    """Bug caught: a node's worth of models loaded for one new video a night."""
    assert place(IngestConfig(), 1, [Node(16, 0)]).track_faces.workers == 1


def test_what_the_config_books_is_booked_and_decides_how_many_workers_fit() -> None:
    """Bug caught: settings that are ignored, or that book more than the cluster has and wait for ever."""
    booked = ResourceConfig(
        track_faces=StageResources(cpus=2, gpus=0.5), parse_regions=StageResources(cpus=1, gpus=0.25)
    )
    at = place(IngestConfig(resources=booked), 1000, [Node(8, 1), Node(3, 1)])
    assert at.track_faces == (2, 2, 0.5)  # one beside the parser's GPU share, one on the second node
    assert at.parse_regions[1:] == (1, 0.25)


@pytest.mark.parametrize(
    ("stage", "booked"), [("track_faces", {"cpus": 3}), ("parse_regions", {"cpus": 3}), ("write_shard", {"gpus": 1})]
)
def test_a_worker_that_fits_nowhere_is_one_sentence(stage: str, booked: dict[str, float]) -> None:
    """Bug caught: an ingest that waits without a word for a node that will never come."""
    cfg = IngestConfig.model_validate({"resources": {stage: booked}})
    with pytest.raises(ConfigError, match=rf"resources\.{stage} .*2 CPUs, 0 GPUs"):
        place(cfg, 10, [Node(2, 0), Node(2, 0)])
