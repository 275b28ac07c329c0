"""Lineage, either way, over a dataset, runs and a registry as commands leave them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.registry import Attempt, Encoder, Registry
from infra.config import BaseConfig
from infra.fetch import file_digest
from infra.run import RunContext
from tests.support.clip_dataset import write_clip_dataset

ANNA = hashlib.sha256(b"anna").hexdigest()


class Nothing(BaseConfig):
    """No settings."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two videos → version 1 → pretraining → encoder 1, scored, live → continued pretraining → encoder 2, refused."""
    monkeypatch.chdir(tmp_path)
    write_clip_dataset(tmp_path / "set", [{"anna": [40, 36], "bela": [40]}])
    registry = Registry("registry")
    (tmp_path / "clips").mkdir()
    start = None
    for name in ("first", "second"):
        with RunContext.create("pretrain", Nothing(), folder=f"runs/{name}") as run:
            run.add_input("dataset", str(tmp_path / "set"), "version 1")
            if start is not None:
                run.add_input("init_from", str(start), file_digest(start))
            run.path("weights.safetensors").write_bytes(name.encode())
            run.add_output("weights", run.path("weights.safetensors"), file_digest(run.path("weights.safetensors")))
        encoder = registry.register(run.path("weights.safetensors"), _record(run, parent=1 if start else None))
        start = registry.weights(encoder, tmp_path)
        with RunContext.create("adapt-deepfake", Nothing(), folder=f"runs/score-{name}") as run:
            run.add_input("weights", str(start), encoder.sha256)
            run.add_input("dataset", "set", "version 1")
    registry.decide("promote", 1, "the first")
    registry.decide("refuse", 2, "worse")
    return tmp_path


def _record(run: RunContext | SimpleNamespace, parent: int | None, *licences: str):
    def made(number: int, created: str, sha256: str) -> Encoder:
        return Encoder(
            number=number, created=created, sha256=sha256, run=str(run.dir), dataset=str(Path("set").absolute()),
            dataset_version=1, clips=3, parent=parent, licences=licences,
        )  # fmt: skip

    return made


def ask(marlin, thing: object, *more: str) -> list[str]:
    said = marlin("lineage", thing, "--dataset", "set", "--registry", "registry", *more)
    assert said.code == 0, said.err
    return said.out.splitlines()


def test_a_video_leads_to_everything_that_it_touched(world, marlin):
    """Catches a link of the chain that is missing: what a takedown and an audit ask for."""
    monkeyed = ask(marlin, "anna.mp4")
    text = "\n".join(monkeyed)
    assert monkeyed[0].startswith(f"video {ANNA}")
    assert text.count("↓ clip ") == 2
    assert "bela" not in text
    for made in ("version 1 of", "runs/first", "runs/second", "runs/score-first", "runs/score-second"):
        assert text.count(made) == 1, made
    assert "encoder registry:1  (live)" in text
    assert "decision 2: refuse" in text
    assert ask(marlin, ANNA[:12]) == monkeyed


def test_a_score_leads_back_to_videos(world, marlin):
    lines = ask(marlin, "runs/score-second")
    text = "\n".join(lines)
    assert not [line for line in lines if "↓" in line]
    for origin in ("encoder registry:2", "runs/second", "encoder registry:1", "runs/first", "version 1 of", ANNA):
        assert f"↑ {'run ' + str(world) + '/' if origin.startswith('runs') else ''}" in text
        assert origin in text, origin


def test_a_program_gets_the_same_as_json(world, marlin):
    """Catches origins and results mixed up, or left out, for whoever audits by program."""
    found = json.loads("\n".join(ask(marlin, "registry:1", "--json")))
    assert (found["kind"], found["name"], found["facts"]) == ("encoder", "registry:1", "live")
    assert ("video", ANNA) in {(node["kind"], node["name"]) for node in found["origins"]}
    assert {"kind": "run", "name": str(world / "runs" / "first"), "facts": "pretrain", "steps": 1} in found["origins"]
    assert "1: promote" in {node["name"] for node in found["results"]}
    lines = ask(marlin, "registry:1")
    assert (len(found["origins"]), len(found["results"])) == tuple(sum(x in y for y in lines) for x in "↑↓")


def test_weights_and_clips_are_found_by_their_bytes_and_keys(world, marlin):
    (world / "copy.bin").write_bytes((world / "runs" / "first" / "weights.safetensors").read_bytes())
    assert any(line.startswith("encoder registry:1") for line in ask(marlin, "copy.bin"))
    clip = next(line.split()[-1] for line in ask(marlin, "anna.mp4") if "clip" in line)
    assert f"↑ video {ANNA}" in "\n".join(ask(marlin, clip))


def test_the_registry_remembers_when_run_folders_are_gone(world, marlin):
    """Catches a live encoder whose origin nobody knows any more, once its run folder was tidied away."""
    text = "\n".join(ask(marlin, "registry:2", "runs=[]"))
    assert "↑ encoder registry:1" in text
    assert f"↑ video {ANNA}" in text


def test_the_options_that_the_error_names_are_there(world, marlin):
    """Catches advice to give an option that is refused."""
    (world / "runs").rename(world / "elsewhere")
    lost = marlin("lineage", "first", "--dataset", "set").sentence
    options = re.findall(r"--\w+", lost)
    assert "--runs" in options
    assert set(options) <= set(re.findall(r"--\w+", marlin("lineage", "--help").out))
    assert "elsewhere/first" in "\n".join(ask(marlin, "elsewhere/first", "--runs", "elsewhere"))


def test_what_is_unknown_or_ambiguous_is_one_sentence(world, marlin):
    assert "nothing is known of 'nobody.mp4'" in marlin("lineage", "nobody.mp4", "--dataset", "set").sentence
    assert "THING is missing" in marlin("lineage").sentence


def test_a_takedown_names_the_encoders_that_learnt_from_it(world, marlin):
    """Catches a live model that goes on unnoticed after the person asked to be taken out."""
    said = marlin("dataset", "remove", "set", "anna.mp4", "--registry", "registry")
    learnt = [line for line in said.out.splitlines() if line.startswith("learnt from it") and "registry" in line]
    assert [line.rpartition("(")[2] for line in learnt] == ["version 1, live)", "version 2)"]


def test_commands_of_the_registry(world, marlin):
    listed = marlin("registry", "list", "registry").out
    assert "*    1" in listed
    assert "refuse: worse" in listed
    assert "version 1: the first" in marlin("registry", "live", "registry").out
    assert "--why" in marlin("registry", "promote", "registry", "--version", "2").sentence
    assert "version 2 is live" in marlin("registry", "promote", "registry", "--version", "2", "--why", "by hand").out
    assert "version 1 is live" in marlin("registry", "rollback", "registry", "--why", "it failed").out
    assert marlin("registry", "live", "elsewhere").code == 1
    assert "there is no registry at" in marlin("registry", "list", "elsewhere").sentence
    Path("elsewhere").mkdir()
    assert "no encoder" in marlin("registry", "list", "elsewhere").out


def test_a_candidate_in_the_making_is_shown_and_can_be_abandoned(world, marlin):
    """Catches an attempt that fails every night and that no command shows or drops."""
    assert "no candidate is in the making" in marlin("registry", "abandon", "registry", "--why", "x").sentence
    attempt = Attempt(dataset="set", dataset_version=2, clips=9, parent=1)
    Registry("registry").begin(attempt)
    assert "in the making  dataset version 2, from 1" in marlin("registry", "list", "registry").out
    assert "--why is" in marlin("registry", "abandon", "registry").sentence
    said = marlin("registry", "abandon", "registry", "--why", "it has one class only").out
    assert "the candidate on dataset version 2, from 1" in said
    listed = marlin("registry", "list", "registry").out
    assert "in the making" not in listed
    assert "dataset version 2, from 1: it has one class only" in listed
    found = json.loads(marlin("registry", "list", "registry", "--json").out)
    assert (found["live"], found["attempt"]) == (1, None)
    assert [row["number"] for row in found["encoders"]] == [1, 2]
    assert [row["action"] for row in found["decisions"]] == ["promote", "refuse"]
    assert found["abandoned"][0]["attempt"] == attempt.model_dump()


def test_a_rollback_says_what_was_left_and_warns_of_what_was_taken_down(world, marlin):
    """Catches a person in a hurry who makes an encoder live again that learnt from what had to go."""
    marlin("registry", "promote", "registry", "--version", "2", "--why", "by hand")
    said = marlin("registry", "rollback", "registry", "--why", "worse")
    assert "version 1 is live, version 2 was left" in said.out
    assert f"dataset version 1, from the start of {world / 'set'}" in said.out
    assert (said.code, said.err) == (0, "")
    marlin("dataset", "remove", "set", "anna.mp4")
    said = marlin("registry", "promote", "registry", "--version", "2", "--why", "by hand")
    gone = f"learnt from version 1 of {world / 'set'}, which was taken down"
    assert [line.partition("live, but ")[2] for line in said.err.splitlines() if "live, but" in line] == [
        f"it {gone}",
        f"version 1, which it continues from, {gone}",
    ]
    assert f"version 1 is live, but it {gone}" in marlin("registry", "rollback", "registry", "--why", "x").err


def test_a_rollback_warns_of_licences_and_is_done_all_the_same(world, marlin):
    """Catches an emergency that waits for a licence, and a product that runs on research weights unnoticed."""
    registry = Registry("registry")
    for number, licence in ((3, "no commercial use"), (4, "MIT")):
        Path("w").write_text(licence)
        made = _record(SimpleNamespace(dir="r"), None)
        registry.register(
            Path("w"), lambda *a, made=made, one=licence: made(*a).model_copy(update={"licences": (one,)})
        )
        registry.decide("promote", number, "better")
    said = marlin("registry", "rollback", "registry", "commercial_use=true", "--why", "worse")
    assert (said.code, "version 3 is live, version 4 was left" in said.out) == (0, True)
    assert "behind it: no commercial use" in said.out
    assert "commercial_use is set, and behind it stand no commercial use" in said.err
