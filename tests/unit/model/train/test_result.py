"""What pretrained weights say of what they stand on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infra.run import RUN_FILE, RunContext
from model.nets.factory import build_mae
from model.pretrain import _record_inputs
from model.train import result
from model.train.networks import first_weights, model_shape
from model.train.result import WeightWriter, start_facts
from model.train_config import PretrainConfig
from model.weights import load_weights, save_weights
from pipeline.dataset.reader import open_dataset
from tests.support.pretraining import face_dataset, small_config

START = {
    "kind": "adapt-deepfake", "labels_learnt": ["deepfake of ffpp, version 3"],
    "adapted_on_licences": ["videos: research only", "parser: drawn by hand"],
}  # fmt: skip


@pytest.fixture
def cfg(tmp_path: Path) -> PretrainConfig:
    """Settings of a run that begins with weights which say what they stand on."""
    cfg = small_config(face_dataset(tmp_path / "dataset"), f"init_from={tmp_path / 'start.safetensors'}")
    shape = model_shape(cfg)
    save_weights(tmp_path / "start.safetensors", build_mae(shape).state_dict(), shape, START)
    return cfg


def test_weights_hand_on_what_those_that_they_began_with_stood_on(cfg, tmp_path, monkeypatch):
    """Catches terms, and labels that were learnt, which are gone after some steps of pretraining."""
    network = build_mae(model_shape(cfg))
    monkeypatch.setattr(result, "full_state", lambda module: module.state_dict())
    monkeypatch.setattr(result, "dist", SimpleNamespace(get_rank=lambda: 0, barrier=lambda: None))
    engines = SimpleNamespace(generator=network, discriminator=None)
    write = WeightWriter(cfg, engines, open_dataset(cfg.data.dataset), start_facts(cfg))  # type: ignore[arg-type]
    write(tmp_path / "w.safetensors", 3)
    told = load_weights(tmp_path / "w.safetensors").provenance
    assert (told["steps"], told["source_licences"]) == (3, ["drawn for tests"])
    assert told["start_licences"] == START["adapted_on_licences"]
    assert told["labels_learnt"] == START["labels_learnt"]


def test_a_start_that_says_nothing_is_not_stated_and_none_adds_nothing(cfg, tmp_path):
    torch.save(first_weights(cfg).state, tmp_path / "foreign.pt")  # type: ignore[union-attr]
    foreign = cfg.model_copy(update={"init_from": str(tmp_path / "foreign.pt")})
    assert start_facts(foreign) == {"start_licences": ["weights: not stated by the file"], "labels_learnt": []}
    assert start_facts(cfg.model_copy(update={"init_from": None})) == {}


def test_a_run_s_report_and_record_unite_the_licences_of_dataset_and_start(cfg, tmp_path):
    """Catches a registry that promotes for commercial use what began with weights for research only."""
    run = RunContext.create("pretrain", cfg, folder=tmp_path / "run")
    licences = _record_inputs(run, cfg, open_dataset(cfg.data.dataset), first_weights(cfg))
    assert licences == ("videos: drawn for tests", "parser: drawn by hand", "videos: research only")
    inputs = json.loads((run.dir / RUN_FILE).read_text())["inputs"]
    assert {entry["name"]: entry["licence"] for entry in inputs}["init_from"] == "; ".join(START["adapted_on_licences"])
