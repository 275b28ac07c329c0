"""Reparse without Ray: its stages one after another, as the graph would call them. The job itself is in integration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import ConfigError, DatasetError
from infra.storage import Storage, open_storage
from pipeline.config import EmbeddedFaces, FacexlibFaces, IngestConfig, TrackConfig
from pipeline.dataset.format import version_key, work_key
from pipeline.dataset.history import diff_versions
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.rewrite import rewritten_id
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import load_version, next_version, publish_version
from pipeline.dataset.work import CLIPS, write_outcome
from pipeline.dataset.writer import outcome_from_row, write_unit
from pipeline.plan import Plan, write_plan
from pipeline.recipe import recipe_digest, recipe_settings
from pipeline.reparse import TakeClips, _pending, reparse
from pipeline.rows import RejectReason, VideoInfo, VideoOutcome
from pipeline.stages import ParseRegions, WriteShard
from tests.support.clip_dataset import drawn_face, write_clip_dataset
from tests.support.killing import contents, copy_store, killed_at
from tests.support.killing import reparse as kill_reparse

REJECT = VideoOutcome(
    "f" * 64, "no face.mp4", 5, info=VideoInfo(640, 360, 25.0, 9), decoded=9, filtered={"blurred": 1}, duplicates=2,
    reject=RejectReason.NO_TRACK, detail="all filtered", seconds={"decode": 0.5}, labels={"label": "fake"},
    place="/source/no face.mp4", content="e" * 64,
)  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> tuple[IngestConfig, Storage]:
    """A dataset of three clips with drawn faces and a reject, and the settings that it says made it."""
    folder = write_clip_dataset(tmp_path / "d", [{"a": [32, 12]}, {"val b": [40]}], drawn_face)
    cfg = IngestConfig(out=str(folder))
    storage = open_storage(cfg.out)
    write_outcome(storage, "rejects", REJECT)
    drawn = load_version(storage, 1)
    units = drawn.units.extended([write_unit(storage, "rejects", [REJECT.video], tmp_path)])
    recipe = {"recipe": recipe_settings(cfg), "recipe_digest": recipe_digest(cfg), "units": units}
    storage.delete(version_key(1))
    publish_version(storage, drawn.model_copy(update=recipe))
    for prefix in ("work/", "units/"):
        for key in list(storage.list(prefix)):
            storage.delete(key)
    return cfg, storage


def _higher(cfg: IngestConfig) -> IngestConfig:
    return cfg.model_copy(update={"faces": EmbeddedFaces(forehead=1.0)})


def _run_stages(cfg: IngestConfig, storage: Storage) -> dict[str, str]:
    """Do what the job does, up to the units' done markers; return {old unit: new unit}."""
    latest, recipe = load_version(storage, 1), recipe_digest(cfg)
    ids = {entry.unit: rewritten_id([entry], f"reparse {recipe}") for entry in latest.units}
    take, parse, write = TakeClips(cfg, recipe, storage), ParseRegions(cfg, storage), WriteShard(storage)
    for planned in _pending(storage, latest, ids):
        write(parse(take(planned)))
    return ids


def test_only_region_maps_and_what_names_the_recipe_change(made) -> None:
    """Bug caught: crops encoded again, labels or rejects lost, maps of another clip, keys that stay the same."""
    cfg, storage = made
    new = _higher(cfg)
    ids = _run_stages(new, storage)
    report = reparse(new)  # everything is parsed; what is left is to publish
    assert (report.version, report.new, report.treated) == (2, True, 0)
    before, after = open_dataset(cfg.out, 1), open_dataset(cfg.out)
    assert verify_dataset(after) == []
    assert (after.version.why, after.version.recipe["faces"]["forehead"]) == ("reparse", 1.0)
    assert [entry.unit for entry in after.version.units] == list(ids.values())
    for entry in before.shards:
        for row in range(entry.clips):
            old, fresh = before.read_clip(entry.unit, row), after.read_clip(ids[entry.unit], row)
            named = {"key": fresh.key, "recipe": recipe_digest(new), "parser": "landmarks68"}
            assert fresh.meta == old.meta.model_copy(update=named)
            assert fresh.key[:-8] == old.key[:-8]
            assert fresh.key != old.key
            assert fresh.mp4 == old.mp4
    (row,) = after.videos(ids["rejects"]).to_pylist()
    assert outcome_from_row(row) == REJECT
    difference = diff_versions(before, after).counts()
    assert difference["clips_remade"] == 3
    assert sum(difference.values()) == 3 + 2  # and their videos; no clip added, removed or relabelled
    assert not [*storage.list("work/"), *storage.list("units/")]
    again = reparse(new)
    assert (again.version, again.new) == (2, False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"track": TrackConfig(margin=1.6)}, r"track\.margin \(1\.3, now 1\.6\)"),
        ({"seed": 1}, "seed"),
        ({"faces": EmbeddedFaces(forehead=1.0, detect_long_side=640)}, r"faces\.detect_long_side"),
        ({"faces": FacexlibFaces(parser="landmarks")}, r"faces\.detector"),
    ],
)
def test_anything_else_that_differs_is_refused_by_name(made, changes, words) -> None:
    """Bug caught: new region maps under a recipe that claims another detector or margin for the old crops."""
    cfg, storage = made
    before = contents(storage)
    with pytest.raises(ConfigError, match=words) as told:
        reparse(cfg.model_copy(update=changes))
    assert "forehead" not in str(told.value)
    assert contents(storage) == before


def test_it_waits_for_an_unfinished_ingest_and_needs_a_dataset(made, tmp_path: Path) -> None:
    """Bug caught: an interrupted night whose finished videos are thrown away."""
    cfg, storage = made
    write_plan(storage, Plan(version=2, recipe_digest="ab", units=()))
    with pytest.raises(DatasetError, match="unfinished"):
        reparse(_higher(cfg))
    with pytest.raises(DatasetError, match="no dataset version"):
        reparse(cfg.model_copy(update={"out": str(tmp_path / "absent")}))


def test_a_video_that_is_there_is_not_taken_again(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug caught: an interrupted reparse that begins from the start."""
    cfg, storage = made
    new = _higher(cfg)
    ids = {entry.unit: "u" for entry in load_version(storage, 1).units}
    take = TakeClips(new, recipe_digest(new), storage)
    planned = next(
        planned for planned in _pending(storage, load_version(storage, 1), ids) if planned.video.name == "a.mp4"
    )
    take(planned)
    first = storage.read(work_key("u", planned.video.digest, CLIPS))
    monkeypatch.setattr(take, "_opened", lambda version: pytest.fail("it was taken again"))
    take(planned)
    assert storage.read(work_key("u", planned.video.digest, CLIPS)) == first


def test_an_outcome_survives_its_row(builder) -> None:
    """Bug caught: a field of the table of videos that a reparse forgets (inverse pair)."""
    for unit, outcome in {"u": REJECT, "v": replace(REJECT, info=None, reject=None, detail=None, clips=0)}.items():
        write_outcome(builder.storage, unit, outcome)
        reader = builder.publish(write_unit(builder.storage, unit, [outcome.video], builder.scratch))
        assert outcome_from_row(reader.videos(unit).to_pylist()[0]) == outcome


@pytest.mark.slow
def test_killed_before_any_write_of_publishing_and_run_again_it_ends_in_the_same_store(made, tmp_path: Path) -> None:
    """Bug caught: markers or results that stay; a version published twice; a reader who sees half of it."""
    cfg, storage = made
    _run_stages(_higher(cfg), storage)
    place = str(tmp_path / "copy")
    new = _higher(cfg).model_copy(update={"out": place})
    wanted = copy_store(storage, place)
    reparse(new)
    expected = contents(wanted)
    writes, killed = 0, True
    while killed:
        writes += 1
        store = copy_store(storage, place)
        killed = killed_at(kill_reparse, place, writes, tmp_path / "scratch", cfg=new)
        assert verify_dataset(open_dataset(place)) == []
        reparse(new)
        assert contents(store) == expected, f"after write {writes}"
    assert writes > 8


def test_after_a_new_version_the_reparse_is_planned_from_that_one(made) -> None:
    """Bug caught: a reparse that was interrupted, then published without what was ingested meanwhile."""
    cfg, storage = made
    _run_stages(_higher(cfg), storage)
    parent = load_version(storage, 1)
    publish_version(storage, next_version(parent, parent.units[:1], "ingest"))
    reparse(_higher(cfg))
    assert [version.clips for version in open_dataset(cfg.out).version.units] == [2]
