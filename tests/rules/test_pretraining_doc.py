"""docs/pretraining.md and the Kubernetes manifest speak of what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from infra.config import load_config
from model.train_config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
SETTING = re.compile(r"`([a-z_.]+(?:=[^` ]+)?(?: [a-z_.]+=[^` ]+)*)`")


def told() -> list[str]:
    """Each run of ``key=value`` settings that the text shows, placeholders filled in."""
    return [found.replace("=N", "=1") for found in SETTING.findall(TEXT) if "=" in found]


@pytest.mark.parametrize("settings", [settings for settings in told() if "zero_stage=3" not in settings])
def test_settings_that_it_shows_are_taken(settings: str) -> None:
    """Bug caught: an ablation or a cure whose setting was renamed."""
    load_config(PretrainConfig, None, settings.split())


def test_settings_that_it_names_exist() -> None:
    """Bug caught: a table of what may change that names a setting of last year."""
    named = re.findall(r"`((?:checkpoint|launch|data|optim|adversarial)\.[a-z_]+)`", TEXT)
    assert len(named) > 8
    known = PretrainConfig().model_dump()
    assert [name for name in named if name.split(".")[1] not in known[name.split(".")[0]]] == []
    assert len(told()) > 12


def test_what_it_says_may_change_is_what_the_code_lets_change() -> None:
    """Bug caught: a setting that is promised to be free and refused at three in the morning."""
    (sentence,) = re.findall(r"may change from launch to launch: (.*?)\. What it\s+learns", TEXT, re.S)
    free = {name.removeprefix("data.") for name in re.findall(r"`([a-z_.*]+)`", sentence)}
    fields, data = set(PretrainConfig.model_fields), set(PretrainConfig().model_dump()["data"])
    fixed = PretrainConfig().essence()
    really = (fields - fixed.keys()) | (data - fixed["data"].keys())
    every = {name for name in really if name.endswith("_every")}
    assert free == (really - every - {"launch", "checkpoint"}) | {"launch.*", "checkpoint.*", "*_every"}


def test_the_manifest_starts_a_command_that_is_taken() -> None:
    """Bug caught: a Job whose pods refuse their own settings, or meet where no pod has that name."""
    service, job = yaml.safe_load_all((ROOT / "infra" / "deploy" / "training-job.yaml").read_text())
    command, dataset, flag, _, *settings = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert (command, flag) == ("pretrain", "--run")
    cfg = load_config(PretrainConfig, None, [f"data.dataset={dataset}", *settings])
    assert cfg.launch.nodes == job["spec"]["completions"] == job["spec"]["parallelism"]
    pod = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert cfg.launch.rendezvous == f"{pod}:{service['spec']['ports'][0]['port']}"
