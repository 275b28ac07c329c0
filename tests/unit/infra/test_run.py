"""A run's record is readable at every moment and says how the run ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import infra.run
from infra.config import BaseConfig, config_digest, load_config
from infra.errors import ConfigError, TrainingError
from infra.run import CONFIG_FILE, RUN_FILE, RunContext, code_revision, descendants, find_runs, possible_paths


class Settings(BaseConfig):
    rate: float = 0.1


def record(folder: Path) -> dict[str, Any]:
    """Read ``run.json``."""
    found: dict[str, Any] = json.loads((folder / RUN_FILE).read_text())
    return found


def test_the_record_says_running_until_the_run_ends(tmp_path: Path) -> None:
    """A killed run must not look finished."""
    with RunContext.create("pretrain", Settings(), root=tmp_path) as run:
        assert record(run.dir)["outcome"] == "running"
        assert record(run.dir)["wall_s"] is None
    assert record(run.dir)["outcome"] == "done"
    assert record(run.dir)["wall_s"] >= 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(TrainingError("loss is NaN"), "failed: loss is NaN"), (ValueError("odd"), "failed: ValueError: odd")],
)
def test_a_failure_is_recorded_with_its_reason_and_goes_on_upwards(
    tmp_path: Path, error: Exception, outcome: str
) -> None:
    with pytest.raises(type(error)), RunContext.create("adapt", Settings(), folder=tmp_path / "r"):
        raise error
    assert record(tmp_path / "r")["outcome"] == outcome


def _read(run: RunContext) -> None:
    run.add_input("dataset", "d", "abc")


def _make(run: RunContext) -> None:
    run.path("scores.csv").write_text("1")


@pytest.mark.parametrize("begin", [_read, _make])
def test_a_refused_run_leaves_no_folder_and_one_that_has_begun_does(
    tmp_path: Path, begin: Callable[[RunContext], None]
) -> None:
    """Catches ``runs/`` filling with folders of mistyped commands, and a record of work that is thrown away."""
    with pytest.raises(ConfigError), RunContext.create("adapt", Settings(), root=tmp_path / "work" / "runs"):
        raise ConfigError("no such dataset")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError), RunContext.create("adapt", Settings(), folder=tmp_path / "mine"):
        raise ConfigError("no such dataset")
    run = RunContext.create("adapt", Settings(), folder=tmp_path / "begun")
    begin(run)
    with pytest.raises(ConfigError), run:
        raise ConfigError("the head does not fit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "mine"]


def test_what_was_read_and_made_is_recorded_at_once_with_its_licence(tmp_path: Path) -> None:
    """Lineage and licences walk over these entries, also those of a run that was killed."""
    run = RunContext.create("pretrain", Settings(), folder=tmp_path / "r")
    run.add_input("dataset", "d", "abc", licence="research only")
    assert record(run.dir)["inputs"] == [{"name": "dataset", "uri": "d", "digest": "abc", "licence": "research only"}]
    run.add_output("weights", run.path("weights.safetensors"), "def")
    assert record(run.dir)["outputs"][0]["path"].endswith("r/weights.safetensors")
    run.set("steps", 3)
    assert record(run.dir)["steps"] == 3
    assert sorted(path.name for path in run.dir.iterdir()) == [CONFIG_FILE, RUN_FILE]


@pytest.mark.parametrize("error", [ConfigError("no such dataset"), TrainingError("loss is NaN")])
def test_a_run_that_fails_forgets_nothing_of_an_earlier_one_in_its_folder(tmp_path: Path, error: Exception) -> None:
    """Catches weights that stay in the folder and drop out of lineage, and with it out of a takedown."""
    _run(tmp_path, "r", reads=(("data", "version 1"),), makes="1" * 64)
    (tmp_path / "r" / "out.bin").write_bytes(b"weights")
    with RunContext.create("any", Settings(), folder=tmp_path / "r") as run:
        run.add_output("gone", run.path("gone.bin"), "2" * 64)
    again = RunContext.create("any", Settings(), folder=tmp_path / "r")
    again.add_input("input", "data", "version 1")
    with pytest.raises(type(error)), again:
        raise error
    (found,) = find_runs([tmp_path])
    assert [entry.digest for entry in found.inputs] == ["version 1"]
    assert [entry.digest for entry in found.outputs] == ["1" * 64]
    assert record(tmp_path / "r")["outcome"] == f"failed: {error}"


def test_a_record_that_cannot_be_read_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    run = RunContext.create("any", Settings(), folder=tmp_path)
    assert (record(run.dir)["inputs"], record(run.dir)["outputs"]) == ([], [])


def test_the_recorded_config_starts_the_same_run_again(tmp_path: Path) -> None:
    cfg = Settings(rate=3e-4)
    run = RunContext.create("pretrain", cfg, root=tmp_path)
    assert load_config(Settings, run.dir / CONFIG_FILE) == cfg
    assert record(run.dir)["config_digest"] == config_digest(cfg)
    assert run.run_id.startswith("pretrain-")
    assert run.run_id.endswith(config_digest(cfg)[:8])


def test_a_death_while_the_config_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches half a file, or an empty one, where ranks read it at every restart."""
    RunContext.create("pretrain", Settings(rate=0.2), folder=tmp_path / "r")

    def half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="disk full"):
        RunContext.create("pretrain", Settings(rate=0.3), folder=tmp_path / "r")
    assert load_config(Settings, tmp_path / "r" / CONFIG_FILE).rate == 0.2


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken cannot be made"):
        RunContext.create("pretrain", Settings(), folder=tmp_path / "taken")


def test_a_machine_without_git_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have no git."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_revision() == {"commit": None}


def _run(root: Path, name: str, *, reads: tuple[tuple[str, str], ...] = (), makes: str | None = None) -> None:
    with RunContext.create("any", Settings(), folder=root / name) as run:
        for place, digest in reads:
            run.add_input("input", place, digest)
        if makes:
            run.add_output("output", run.path("out.bin"), makes)


def test_lineage_walks_from_an_origin_to_everything_made_of_it(tmp_path: Path) -> None:
    """Bug caught: a walk that stops at the first step, runs in circles, or takes version numbers for digests."""
    _run(tmp_path, "a", reads=(("data", "version 1"),), makes="1" * 64)
    _run(tmp_path, "b", reads=(("moved/elsewhere.bin", "1" * 64),), makes="2" * 64)  # by digest
    _run(tmp_path, "c", reads=((str(tmp_path / "b" / "out.bin"), ""),), makes="version 1")  # by place
    _run(tmp_path, "d", reads=((str(tmp_path / "c"), ""), (str(tmp_path / "d"), "")))  # by the run's folder; a circle
    _run(tmp_path, "e", reads=(("data", "version 2"),), makes="version 1")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / RUN_FILE).write_text("[]")
    runs = find_runs([tmp_path, tmp_path / "a", tmp_path / "absent"])
    assert [run.folder.name for run in runs] == ["a", "b", "c", "d", "e"]
    found = descendants(runs, lambda run, entry: (entry.place, entry.digest) == ("data", "version 1"))
    assert [run.folder.name for run in found] == ["a", "b", "c", "d"]
    assert descendants(runs, lambda run, entry: False) == []


def test_lineage_looks_at_each_input_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a walk that holds every run against every other: minutes, after a year of nights."""
    count = 12
    for number in range(count):
        _run(tmp_path, f"{number:03}", reads=((str(tmp_path / f"{number - 1:03}" / "out.bin"), ""),))
    asked = []
    monkeypatch.setattr(infra.run, "possible_paths", lambda *entry: asked.append(entry) or possible_paths(*entry))
    found = descendants(find_runs([tmp_path]), lambda run, entry: run.folder.name == "000")
    assert len(found) == count
    assert len(asked) == count
