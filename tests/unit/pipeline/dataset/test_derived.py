from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from infra.config import BaseConfig
from infra.run import RunContext
from model.adapt.features import _save
from pipeline.dataset.cached_features import features_path
from pipeline.dataset.remove import RemoveReport, remove_videos
from tests.support.killing import killed_at, remove

NUMBERS = np.zeros((1, 2), np.float32)


class Settings(BaseConfig):
    cache: str = ""
    out: str = ""
    rate: float = 0.0


def _files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content of " + name.encode())


@pytest.fixture
def runs(builder, small, tmp_path: Path) -> Path:
    """A folder of runs: of version 1 (training, adaptation, and what follows from them), of 2, of another dataset."""
    builder.publish(builder.unit("unit-three", {"secret": [builder.clip("secret")]}))
    root, dataset = tmp_path / "runs", builder.storage.uri
    with RunContext.create("ingest", Settings(out=dataset), folder=root / "ingest") as run:
        run.add_input("videos", "/source/secret.mp4", "ab")
        run.add_output("dataset", dataset, "version 2")
        _files(run.dir, "progress.json")
    for name, out in (("killed", dataset), ("elsewhere", str(tmp_path / "another dataset"))):
        _files(RunContext.create("ingest", Settings(out=out), folder=root / name).dir, "progress.json")
    with RunContext.create("pretrain", Settings(), folder=root / "sub" / "pretrain") as run:
        run.add_input("dataset", dataset, "version 2")
        _files(run.dir, "weights.safetensors", "checkpoints/step-1/G/state.pt", "pictures/step-1.png", "metrics.jsonl")
        run.add_output("weights", run.path("weights.safetensors"), "c" * 64)
    with RunContext.create("adapt", Settings(cache=str(tmp_path / "cache")), folder=root / "adapt") as run:
        run.add_input("weights", "moved.safetensors", "c" * 64)
        run.add_input("dataset", os.path.relpath(dataset), "version 2")
        _files(run.dir, "scores.csv", "pairs.png", "features.npz", "head.safetensors", "result.json")
    for digest, unit, video in (("a" * 64, "one", "secret"), ("b" * 64, "two", "secret"), ("b" * 64, "three", "a")):
        _save(features_path(tmp_path / "cache", digest, unit), {f"{builder.clip(video).meta.key}@0+2#0": NUMBERS})
    _files(tmp_path / "cache", "somebody's.npz", "features-mine/secret.npz", f"features-{'b' * 24}/.four.npz.half")
    with RunContext.create("adapt", Settings(), folder=root / "adapt-old") as run:
        run.add_input("weights", str(root / "sub" / "pretrain"), "e" * 64)
        run.add_input("dataset", dataset, "version 1")
        _files(run.dir, "scores.csv", "adapted.safetensors")
    with RunContext.create("pretrain", Settings(), folder=root / "other") as run:
        run.add_input("dataset", str(tmp_path / "another dataset"), "version 2")
        _files(run.dir, "weights.safetensors", "reconstruction.png")
    features = root / "features"
    features.mkdir()
    for stem in ("secret", "a"):
        record = {"video": f"{stem}.mp4", "sha256": builder.digest(stem), "windows": []}
        (features / f"{stem}.json").write_text(json.dumps(record))
        (features / f"{stem}.npy").write_bytes(b"numbers")
    _files(root / "predicted", "secret.png", "secret-annotated.mp4", "secret-cam.png", "another.png")
    record = {"video": "secret.mp4", "sha256": builder.digest("secret"), "faces": []}
    (root / "predicted" / "secret.json").write_text(json.dumps(record))
    (root / "report.html").write_text("<td>secret.mp4</td>")
    (root / "other.html").write_text("<td>no-secret.mp4</td>")
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    return root


def _left(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


KEPT = {"ingest/run.json", "ingest/config.yaml", "elsewhere/progress.json",
        "sub/pretrain/weights.safetensors", "sub/pretrain/metrics.jsonl",
        "sub/pretrain/checkpoints/step-1/G/state.pt", "adapt/head.safetensors", "adapt/result.json",
        "adapt-old/scores.csv", "adapt-old/adapted.safetensors", "other/reconstruction.png",
        "other/weights.safetensors", "features/a.json", "features/a.npy", "other.html", "broken/run.json",
        "predicted/another.png"}  # fmt: skip


def _remove(builder, runs: Path) -> RemoveReport:
    return remove_videos(builder.storage, ["secret.mp4"], builder.scratch, runs=[runs, runs / "absent"])


def test_features_pictures_and_scores_of_a_version_that_held_it_are_deleted_and_nothing_else(builder, runs) -> None:
    """Bug caught: a face or its features left in a run; another dataset's or version's results lost; records lost."""
    done = _remove(builder, runs)
    assert {name for name in _left(runs) if not name.endswith(("run.json", "config.yaml"))} | {
        "ingest/run.json", "ingest/config.yaml", "broken/run.json",
    } == KEPT  # fmt: skip
    assert _left(runs.parent / "cache") == {
        "somebody's.npz",
        "features-mine/secret.npz",
        f"features-{'b' * 24}/three.npz",
    }
    assert {Path(path).relative_to(runs.parent).as_posix() for path in done.deleted} == {
        "runs/ingest/progress.json", "runs/killed/progress.json",
        "runs/sub/pretrain/pictures/step-1.png", "runs/adapt/scores.csv",
        "runs/adapt/pairs.png", "runs/adapt/features.npz", f"cache/features-{'a' * 24}/one.npz",
        f"cache/features-{'b' * 24}/two.npz", f"cache/features-{'b' * 24}/.four.npz.half",
        "runs/features/secret.json", "runs/features/secret.npy", "runs/report.html", "runs/predicted/secret.json",
        "runs/predicted/secret.png", "runs/predicted/secret-annotated.mp4", "runs/predicted/secret-cam.png",
    }  # fmt: skip


def test_odd_files_beside_the_runs_do_not_end_a_takedown_half_way(builder, runs, tmp_path: Path) -> None:
    """Bug caught: a takedown that fails in the same way whenever it is run, with the old versions still readable."""
    (runs / "latest.json").symlink_to(tmp_path / "nowhere")
    (runs / "deep.json").write_text("[" * 100_000)
    os.mkfifo(runs / "pipe.json")
    os.mkfifo(runs / "pipe.html")
    builder.storage.write("seen/places-1.parquet", b"PAR1 cut off")
    done = _remove(builder, runs)
    assert len(done.deleted) == 16
    assert not builder.storage.exists("seen/places-1.parquet")


def test_weights_that_saw_it_are_named_and_those_that_descend_from_them_too(builder, runs) -> None:
    """Bug caught: a takedown that says done while a network trained on the face, or on its heir, is in use."""
    done = _remove(builder, runs)
    assert {Path(path).relative_to(runs).as_posix() for path in done.learnt} == {
        "sub/pretrain/weights.safetensors", "sub/pretrain/checkpoints/step-1/G/state.pt", "adapt/head.safetensors",
        "adapt-old/adapted.safetensors",
    }  # fmt: skip
    assert {Path(path).relative_to(runs).as_posix() for path in done.mentions} == {"ingest/run.json"}


def test_a_link_in_a_run_never_costs_the_file_that_it_points_at(builder, runs, tmp_path: Path) -> None:
    """Bug caught: following a link out of the run's folder."""
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"picture")
    (runs / "adapt" / "link.png").symlink_to(precious)
    (runs / "adapt" / "folder").symlink_to(tmp_path)
    _remove(builder, runs)
    assert precious.read_bytes() == b"picture"


@pytest.mark.slow
def test_killed_before_any_write_the_same_command_also_finishes_the_runs(builder, runs, tmp_path: Path) -> None:
    """Bug caught: versions buried before what was made of them is deleted: then nobody can tell what that was."""
    for number in range(1, 8):
        if killed_at(remove, builder.storage.uri, number, tmp_path / "s", videos=["secret.mp4"], runs=[str(runs)]):
            continue
        break
    again = remove_videos(builder.storage, [builder.digest("secret")], builder.scratch, runs=[runs])
    assert not again.new
    assert not (runs / "adapt" / "scores.csv").exists()
    assert not (runs / "features" / "secret.npy").exists()
