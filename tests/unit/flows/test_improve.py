"""What ``improve`` decides before and after the work, without the work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import adapt, improve
from flows.config import ImproveConfig
from flows.plan import Idle
from flows.registry import Attempt, Encoder, Registry
from flows.runs import settled_folder
from infra.config import validate_config
from infra.errors import ConfigError, DatasetError, ProjectError, WeightsError
from infra.run import RUN_FILE
from infra.storage import open_storage
from model.adapt.report import RESULT_FILE
from model.adapt_config import AdaptConfig
from model.gate import Verdict
from model.nets.config import model_config
from model.nets.factory import build_mae
from model.train_config import ModelChoice, PretrainConfig
from model.weights import save_weights
from pipeline.dataset.versions import bury_version
from tests.support.clip_dataset import publish_again, write_clip_dataset


@pytest.fixture
def cfg(tmp_path: Path) -> ImproveConfig:
    """Settings over a dataset of three clips."""
    write_clip_dataset(tmp_path / "set", [{"anna": [40, 36], "bela": [40]}])
    tree = {"registry": str(tmp_path / "registry"), "runs": str(tmp_path / "runs"), "min_new_clips": 2,
            "pretrain": {"data": {"dataset": str(tmp_path / "set")}}, "adapt": {"task": "deepfake"}}  # fmt: skip
    return validate_config(ImproveConfig, tree, where="the test")


def register(
    cfg: ImproveConfig, licence: str = "MIT", weights: str = "", dataset: str = "d", parent: int | None = None
) -> Encoder:
    registry = Registry(cfg.registry)
    file = Path(cfg.runs).parent / "weights"
    file.write_text(weights or str(len(registry.encoders())))
    return registry.register(
        file,
        lambda number, created, sha256: Encoder(
            number=number, created=created, sha256=sha256, run="r", dataset=dataset, dataset_version=1, clips=3,
            parent=parent, licences=(f"videos: {licence}",),
        ),
    )  # fmt: skip


def test_an_unfinished_attempt_is_finished_on_its_own_version(cfg):
    """Catches a run that begins anew on every ingest, so that days of training are never ended."""
    registry = Registry(cfg.registry)
    begun = improve._attempt(cfg, registry)
    assert isinstance(begun, Attempt)
    assert (begun.dataset_version, begun.clips, begun.parent) == (1, 3, None)
    publish_again(cfg.pretrain.data.dataset)
    assert improve._attempt(cfg, registry) == begun


def test_an_attempt_on_a_version_that_was_taken_down_is_given_up(cfg):
    """Catches training that goes on with a person who was taken out."""
    registry = Registry(cfg.registry)
    improve._attempt(cfg, registry)
    publish_again(cfg.pretrain.data.dataset)
    bury_version(open_storage(cfg.pretrain.data.dataset), 1, 2)
    again = improve._attempt(cfg, registry)
    assert isinstance(again, Attempt)
    assert again.dataset_version == 2


def test_clips_count_from_the_last_candidate_that_was_decided_on(cfg):
    """Catches a candidate that nobody will ever decide on, its version was taken down, and that holds up the next."""
    registry, dataset = Registry(cfg.registry), open_storage(cfg.pretrain.data.dataset).uri
    register(cfg, dataset=dataset)
    publish_again(cfg.pretrain.data.dataset)
    bury_version(open_storage(cfg.pretrain.data.dataset), 1, 2)
    assert isinstance(improve._attempt(cfg, registry), Attempt)
    registry.end()
    registry.decide("refuse", 1, "worse")
    assert isinstance(improve._attempt(cfg, registry), Idle)


def test_a_candidate_from_scratch_is_made_after_a_takedown(cfg):
    """Catches a registry in which no encoder can be made any more that has not learnt what was taken down."""
    registry, dataset = Registry(cfg.registry), open_storage(cfg.pretrain.data.dataset).uri
    live = register(cfg, dataset=dataset)
    registry.decide("promote", live.number, "better")
    publish_again(cfg.pretrain.data.dataset)
    registry.begin(begun := Attempt(dataset=dataset, dataset_version=2, clips=3, parent=live.number))
    assert improve._attempt(cfg, registry) == begun
    scratch = cfg.model_copy(update={"from_scratch": True})
    assert isinstance(improve._attempt(scratch, registry), Idle), "version 1 still stands, and no clip is new"
    bury_version(open_storage(dataset), 1, 2)
    clean = begun.model_copy(update={"parent": None})
    assert improve._attempt(scratch, registry) == improve._attempt(scratch, registry) == clean
    assert improve._attempt(cfg, registry) == clean, "begun is begun"


def test_an_abandoned_candidate_is_neither_begun_again_nor_decided_on(cfg, monkeypatch):
    """Catches a run that was under way when its candidate was abandoned, and that makes it live hours later."""
    registry = Registry(cfg.registry)
    begun = improve._attempt(cfg, registry)
    candidate = register(cfg, dataset=begun.dataset)
    registry.abandon("one class only")
    registry.begin(begun)  # as where abandoning died before its end
    idle = improve._attempt(cfg, registry)
    assert isinstance(idle, Idle)
    assert "one class only" in idle.why
    assert registry.attempt() is None
    monkeypatch.setattr(improve, "_verdict", lambda *_: Verdict(True, "better", {}))
    with pytest.raises(ProjectError, match="abandoned while it was made: one class only"):
        improve._decided(cfg, registry, candidate)
    assert registry.decisions() == []


def test_what_cannot_be_measured_says_how_to_go_on(cfg, events, monkeypatch):
    """Catches advice to add videos to a dataset version that never changes, every night again."""

    def fails(*_: object) -> Verdict:
        raise DatasetError("the test side holds one class only; add videos of the others")

    monkeypatch.setattr(improve, "_verdict", fails)
    with pytest.raises(DatasetError, match=r"one class only; .* version 1 of the dataset; .*marlin registry abandon"):
        improve.improve_flow.fn(cfg)


def test_another_model_is_told_of_from_scratch(cfg, tmp_path, monkeypatch):
    """Catches settings that can never be used again once an encoder is live, and an error that names no way."""
    file = tmp_path / "tiny.safetensors"
    shape = model_config("marlin_vit_tiny")
    save_weights(file, build_mae(shape).state_dict(), shape, {})
    monkeypatch.setattr(improve, "pretrain_flow", lambda *_: pytest.fail("it was trained"))
    other = register(cfg)
    parent = Registry(cfg.registry).register(
        file, lambda number, _, sha256: other.model_copy(update={"number": number, "sha256": sha256})
    )
    with pytest.raises(ConfigError, match=r"does not fit the network .*, or set from_scratch=true"):
        candidate_of(cfg, parent)


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


@pytest.mark.parametrize("by_hand", ["rollback", "promote"])
def test_what_a_person_decides_while_a_candidate_is_measured_stands(cfg, monkeypatch, by_hand):
    """Catches a rollback that hours later is overridden by a comparison with the encoder that was rolled back."""
    registry = Registry(cfg.registry)
    for encoder in (register(cfg), register(cfg)):
        registry.decide("promote", encoder.number, "better")
    third, candidate, scored = register(cfg), register(cfg), []

    def scores(cfg: ImproveConfig, registry: Registry, encoder: Encoder, _: Encoder) -> Path:
        scored.append(encoder.number)
        if scored == [candidate.number, 2]:
            registry.rollback("worse") if by_hand == "rollback" else registry.decide("promote", third.number, "better")
        return Path(str(encoder.number))

    monkeypatch.setattr(improve, "_scored", scores)
    monkeypatch.setattr(improve, "compare", lambda new, old, *_, **__: Verdict(old.name != "2", f"not {old}", {}))
    decision = improve._decided(cfg, registry, candidate)
    now = 1 if by_hand == "rollback" else third.number
    assert (decision.action, decision.previous, decision.why) == ("promote", now, f"not {now}")
    assert scored == [candidate.number, 2, candidate.number, now]
    assert [found.action for found in registry.decisions()] == ["promote", "promote", by_hand, "promote"]


def test_a_candidate_that_a_person_decides_on_while_it_is_measured_is_not_decided_on_again(cfg, monkeypatch):
    """Catches an encoder made live by hand that is then compared with itself, and perhaps refused."""
    registry, candidate = Registry(cfg.registry), register(cfg)

    def verdict(*_: object) -> Verdict:
        registry.decide("promote", candidate.number, "by hand")
        return Verdict(False, "worse", {})

    monkeypatch.setattr(improve, "_verdict", verdict)
    assert improve._decided(cfg, registry, candidate).why == "by hand"
    assert len(registry.decisions()) == 1


@pytest.fixture
def events(cfg: ImproveConfig, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The events of ``improve`` runs that need not train, measure or show anything."""
    posted: list[dict] = []
    dataset = open_storage(cfg.pretrain.data.dataset).uri
    monkeypatch.setattr(improve, "_candidate", lambda *_: register(cfg, weights="the same", dataset=dataset))
    monkeypatch.setattr(improve, "_verdict", lambda *_: Verdict(True, "better", {}))
    monkeypatch.setattr(improve, "create_markdown_artifact", lambda **_: None)
    monkeypatch.setattr(improve, "post_event", lambda name, resource, payload: posted.append(payload) or True)
    return posted


@pytest.mark.parametrize(
    "where", [(improve, "post_event"), (Registry, "end"), (improve, "create_markdown_artifact")], ids=lambda w: w[1]
)
def test_a_promotion_is_told_wherever_the_run_dies(cfg, events, monkeypatch, where):
    """Catches an attempt that ends before its event: the next run finds nothing due, and nobody is ever told."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*where, die)
        with pytest.raises(KeyboardInterrupt):
            improve.improve_flow.fn(cfg)
    improve.improve_flow.fn(cfg)
    assert {"version": 1} in events
    assert [decision.version for decision in Registry(cfg.registry).decisions()] == [1]
    assert Registry(cfg.registry).attempt() is None


def test_commercial_use_refuses_what_is_not_allowed_and_says_what(cfg, monkeypatch):
    """Catches research-only weights that go live in a product."""
    monkeypatch.setattr(improve, "_scored", lambda *_: Path())
    registry = Registry(cfg.registry)
    wanted = cfg.model_copy(update={"commercial_use": True})
    verdict = improve._verdict(wanted, registry, register(cfg, "no commercial use"), None)
    assert (verdict.passed, verdict.why) == (
        False,
        "commercial_use is set, and behind it stand videos: no commercial use",
    )
    assert improve._verdict(wanted, registry, register(cfg), None).passed
    assert improve._verdict(cfg, registry, register(cfg, "no commercial use"), None).passed


def test_the_schedule_adapts_the_live_encoder_once(cfg, monkeypatch):
    """Catches a week that fails because nothing is live yet, and one that measures again what is measured."""
    done: list[Path] = []

    def adapts(settings: AdaptConfig, folder: Path) -> str:
        assert settings.data.version == 1
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).touch()
        (folder / RUN_FILE).write_text('{"outcome": "done"}')
        done.append(folder)
        return "a report"

    monkeypatch.setattr(adapt, "adapt_task", adapts)
    assert adapt.adapt_flow.fn(cfg.adapt, cfg.runs, cfg.registry) is None
    encoder = register(cfg, dataset=open_storage(cfg.pretrain.data.dataset).uri)
    Registry(cfg.registry).decide("promote", encoder.number, "better")
    found = [adapt.adapt_flow.fn(cfg.adapt, cfg.runs, cfg.registry) for _ in range(2)]
    assert (found, len(done)) == (["a report", None], 1)
    (done[0] / RUN_FILE).write_text('{"outcome": "running"}')
    assert adapt.adapt_flow.fn(cfg.adapt, cfg.runs, cfg.registry) == "a report", (
        "a record that was cut off is completed"
    )


@pytest.fixture
def trained(cfg: ImproveConfig, monkeypatch: pytest.MonkeyPatch) -> list[PretrainConfig]:
    """The settings of pretrainings that learn nothing."""
    settings: list[PretrainConfig] = []
    weights = Path(cfg.runs).parent / "trained"
    weights.write_text("what was learnt")
    licences = ("videos: CC BY", "initial weights: not stated by the file")
    report = SimpleNamespace(run_dir="r", weights=weights, licences=licences, dataset_licences=licences[:1])
    monkeypatch.setattr(improve, "first_weights", lambda _: None)
    monkeypatch.setattr(improve, "pretrain_flow", lambda one, _: settings.append(one) or report)
    return settings


def candidate_of(cfg: ImproveConfig, parent: Encoder | None) -> Encoder:
    attempt = Attempt(dataset="d", dataset_version=7, clips=3, parent=parent and parent.number)
    return improve._candidate(cfg, Registry(cfg.registry), attempt, parent)


def test_a_candidate_goes_on_from_its_parent_s_weights(cfg, trained):
    """Catches an encoder that begins anew every time and forgets the clips that are gone."""
    candidate_of(cfg, register(cfg, weights="of the parent"))
    assert Path(trained[0].init_from).read_text() == "of the parent"


def test_a_candidate_learns_from_the_version_of_its_attempt(cfg, trained):
    """Catches a training on whatever is newest, recorded and taken down as something else."""
    assert candidate_of(cfg, None).dataset_version == trained[0].data.version == 7


def test_a_candidate_bears_the_licences_of_its_parent_too(cfg, trained):
    """Catches research-only weights that are washed clean by going on with free videos."""
    assert candidate_of(cfg, register(cfg, "no commercial use")).licences == (
        "videos: CC BY",
        "videos: no commercial use",
    )


def test_a_parent_s_licences_are_the_registry_s_and_not_those_of_an_older_file(cfg, trained):
    """Catches a file that does not say what it began with, and keeps all that come after it from commercial use."""
    assert candidate_of(cfg, register(cfg, "MIT")).licences == ("videos: CC BY", "videos: MIT")
    Path(cfg.runs).parent.joinpath("trained").write_text("another")
    assert "initial weights: not stated by the file" in candidate_of(cfg, None).licences, "init_from is anybody's"


@pytest.mark.parametrize("of_parent", [True, False])
def test_a_start_that_has_learnt_labels_is_refused_before_the_training(cfg, tmp_path, monkeypatch, of_parent):
    """Catches days of pretraining, every night again, of what adaptation then refuses to measure."""
    shape, file = model_config("marlin_vit_tiny"), tmp_path / "adapted.safetensors"
    save_weights(file, build_mae(shape).state_dict(), shape, {"labels_learnt": ["deepfake of d, version 1"]})
    monkeypatch.setattr(improve, "pretrain_flow", lambda *_: pytest.fail("it was trained"))
    start = {"model": ModelChoice(name="marlin_vit_tiny"), "init_from": None if of_parent else str(file)}
    cfg = cfg.model_copy(update={"pretrain": cfg.pretrain.model_copy(update=start)})
    parent = None
    if of_parent:
        parent = Registry(cfg.registry).register(
            file,
            lambda number, created, sha256: Encoder(
                number=number, created=created, sha256=sha256, run="r", dataset="d", dataset_version=1, clips=3,
                parent=None, licences=(),
            ),
        )  # fmt: skip
    with pytest.raises(WeightsError, match="has learnt labels"):
        candidate_of(cfg, parent)


def test_candidate_and_live_encoder_are_compared_on_the_candidate_s_dataset_version(cfg, monkeypatch):
    """Catches a live encoder scored on its own, older test videos, and a gate that promotes what is worse."""
    live, candidate = register(cfg), register(cfg).model_copy(update={"dataset_version": 2})
    Registry(cfg.registry).decide("promote", live.number, "better")
    adapted: dict[Path, tuple[str, int | None]] = {}
    compared: list[Path] = []

    def adapts(settings: AdaptConfig, runs: str) -> None:
        adapted[settled_folder(runs, "adapt-deepfake", settings)] = (Path(settings.weights).stem, settings.data.version)

    monkeypatch.setattr(improve, "adapt_flow", adapts)
    monkeypatch.setattr(improve, "compare", lambda new, old, *_, **__: compared.extend([new, old]))
    improve._verdict(cfg, Registry(cfg.registry), candidate, live)
    assert [adapted[folder] for folder in compared] == [(candidate.sha256[:16], 2), (live.sha256[:16], 2)]
