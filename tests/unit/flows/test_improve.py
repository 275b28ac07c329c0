"""What ``improve`` decides before and after the work, without the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import improve
from flows.config import ImproveConfig
from flows.plan import Idle
from flows.registry import Attempt, Encoder, Registry
from infra.config import validate_config
from infra.storage import open_storage
from model.gate import Verdict
from pipeline.dataset.versions import bury_version, newest_version, next_version, publish_version
from tests.support.clip_dataset import write_clip_dataset


@pytest.fixture
def cfg(tmp_path: Path) -> ImproveConfig:
    """Settings over a dataset of three clips."""
    write_clip_dataset(tmp_path / "set", [{"anna": [40, 36], "bela": [40]}])
    tree = {"registry": str(tmp_path / "registry"), "runs": str(tmp_path / "runs"), "min_new_clips": 2,
            "pretrain": {"data": {"dataset": str(tmp_path / "set")}}, "adapt": {"task": "deepfake"}}  # fmt: skip
    return validate_config(ImproveConfig, tree, where="the test")


def grow(cfg: ImproveConfig) -> None:
    """Publish a further version with the same clips."""
    storage = open_storage(cfg.pretrain.data.dataset)
    newest = newest_version(storage)
    publish_version(storage, next_version(newest, newest.units, "ingest"))


def register(cfg: ImproveConfig, licence: str = "MIT") -> Encoder:
    registry = Registry(cfg.registry)
    weights = Path(cfg.runs).parent / "weights"
    weights.write_text(str(len(registry.encoders())))
    return registry.register(
        weights,
        lambda number, created, sha256: Encoder(
            number=number, created=created, sha256=sha256, run="r", dataset="d", dataset_version=1, clips=3,
            parent=None, licences=(f"videos: {licence}",),
        ),
    )  # fmt: skip


def test_an_unfinished_attempt_is_finished_on_its_own_version(cfg):
    """Catches a run that begins anew on every ingest, so that days of training are never ended."""
    registry = Registry(cfg.registry)
    begun = improve._attempt(cfg, registry)
    assert isinstance(begun, Attempt)
    assert (begun.dataset_version, begun.clips, begun.parent) == (1, 3, None)
    grow(cfg)
    assert improve._attempt(cfg, registry) == begun


def test_an_attempt_on_a_version_that_was_taken_down_is_given_up(cfg):
    """Catches training that goes on with a person who was taken out."""
    registry = Registry(cfg.registry)
    improve._attempt(cfg, registry)
    grow(cfg)
    bury_version(open_storage(cfg.pretrain.data.dataset), 1, 2)
    again = improve._attempt(cfg, registry)
    assert isinstance(again, Attempt)
    assert again.dataset_version == 2


def test_nothing_is_begun_where_there_is_nothing(cfg, tmp_path):
    empty = cfg.pretrain.model_copy(
        update={"data": cfg.pretrain.data.model_copy(update={"dataset": str(tmp_path / "x")})}
    )
    idle = improve._attempt(cfg.model_copy(update={"pretrain": empty}), Registry(cfg.registry))
    assert isinstance(idle, Idle)
    assert "no version yet" in idle.why
    idle = improve._attempt(cfg.model_copy(update={"min_new_clips": 4}), Registry(cfg.registry))
    assert isinstance(idle, Idle)
    assert Registry(cfg.registry).attempt() is None


def test_a_run_that_died_after_deciding_does_not_decide_again(cfg, monkeypatch):
    """Catches a second promotion of the same encoder, compared with itself."""
    registry, candidate = Registry(cfg.registry), register(cfg)
    monkeypatch.setattr(improve, "_verdict", lambda *_: Verdict(True, "better", {}))
    first = improve._decided(cfg, registry, candidate)
    assert improve._decided(cfg, registry, candidate) == first
    assert len(registry.decisions()) == 1


def test_commercial_use_refuses_what_is_not_allowed_and_says_what(cfg, monkeypatch):
    """Catches research-only weights that go live in a product."""
    monkeypatch.setattr(improve, "_scored", lambda *_: Path())
    registry = Registry(cfg.registry)
    wanted = cfg.model_copy(update={"commercial_use": True})
    verdict = improve._verdict(wanted, registry, register(cfg, "no commercial use"))
    assert (verdict.passed, verdict.why) == (
        False,
        "commercial_use is set, and behind it stand videos: no commercial use",
    )
    assert improve._verdict(wanted, registry, register(cfg)).passed
    assert improve._verdict(cfg, registry, register(cfg, "no commercial use")).passed
