"""`marlin dataset versions|diff|compact|vacuum|remove` as a person meets them; what they do is tested elsewhere."""

from __future__ import annotations

import hashlib
import json

import pytest

from pipeline.dataset.reader import open_dataset
from pipeline.dataset.verify import verify_dataset
from tests.support.clip_dataset import write_clip_dataset


@pytest.fixture
def dataset(tmp_path):
    return write_clip_dataset(tmp_path / "set", [{"a": [40], "b": [36, 20]}, {"val": [33]}])


def test_the_life_of_a_dataset_from_compaction_to_takedown(marlin, dataset, tmp_path):
    """Bug caught: an option that never reaches its function; a report that says the opposite of what was done."""
    assert "new version 2, 2 → 1 shards" in marlin("dataset", "compact", dataset).out
    assert "nothing to merge; still version 2" in marlin("dataset", "compact", dataset, "--shard-mb", 64).out
    said = marlin("dataset", "diff", dataset, 1, 2)
    assert said.out.startswith("version 1 → 2 (compact)")
    assert said.out.count("        0  ") == 7
    told = marlin("dataset", "vacuum", dataset, "--keep", 1, "--grace-hours", 0, "--dry-run").out
    assert "versions 1 would be dropped" in told
    assert open_dataset(str(dataset), 1).version.version == 1
    assert told.replace("would be", "were") == marlin("dataset", "vacuum", dataset, "--keep", 1, "--grace-hours", 0).out
    (tmp_path / "elsewhere" / "adapt").mkdir(parents=True)
    (tmp_path / "elsewhere" / "page.html").write_text("<td>b.mp4</td>")
    said = marlin("dataset", "remove", dataset, "b.mp4", hashlib.sha256(b"a").hexdigest()[:12], "--runs", "else*")
    assert "new version 3, 3 clips are gone" in said.out
    assert "deleted else" in said.out
    assert "versions 2" in said.out
    assert not (tmp_path / "elsewhere" / "page.html").exists()
    lines = marlin("dataset", "versions", dataset).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert "version 3 takes its place" in lines[2]
    assert "remove" in lines[3]
    assert verify_dataset(open_dataset(str(dataset))) == []


def test_diff_takes_the_newest_and_its_parent_by_default_and_lists_as_json(marlin, dataset):
    """Bug caught: versions compared the wrong way round."""
    marlin("dataset", "remove", dataset, "val.mp4", "--runs", "none")
    assert "version 2 was removed" not in marlin("dataset", "diff", dataset, 2, 2).err
    assert "version 1 of" in marlin("dataset", "diff", dataset).sentence  # the parent held the removed video
    found = json.loads(marlin("dataset", "diff", dataset, 2, 2, "--json").out)
    assert set(map(len, found.values())) == {0}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("compact", "absent"), "holds no dataset version"),
        (("vacuum", "absent"), "holds no dataset version"),
        (("versions",), "DATASET is missing"),
        (("remove", "absent"), "VIDEO… is missing"),
        (("diff", "a", "1", "2", "3"), "DATASET A B are taken and 4 are given"),
        (("vacuum", "a", "--keep", "0"), "'keep'"),
    ],
)
def test_wrong_use_is_one_sentence(marlin, words, sentence, tmp_path):
    """Bug caught: a traceback, or a folder made by a slip of the keyboard."""
    assert sentence in marlin("dataset", *words).sentence
    assert not (tmp_path / "absent").exists()


def test_reparse_needs_no_source_and_a_plain_ingest_does(marlin, dataset):
    """Bug caught: --reparse that asks for sources, or an ingest that no longer does."""
    assert "set back" in marlin("ingest", "--reparse", "--out", dataset).sentence  # drawn, so by another recipe
    assert "SOURCE… is missing" in marlin("ingest", "--out", dataset).sentence


def test_reparse_goes_with_neither_a_dry_run_nor_a_retry(marlin, tmp_path):
    """Bug caught: an option that is silently left out of account."""
    assert "leave them out" in marlin("ingest", "--reparse", "--dry-run", "--out", tmp_path / "set").sentence
