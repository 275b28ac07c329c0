from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from infra.errors import ConfigError
from pipeline.sources.layouts import mosei as layout
from pipeline.sources.layouts import mosei_hdf5
from tests.support.layouts import MOSEI_COLUMNS, mosei, put, split_list

ROWS = {"a_b": [(1.0, 2.0, 0.0, 0.0, 0.5, 0.0, 0.0), (-3.0, 0.0, 1.5, 3.0, 0.0, 0.25, 1.0)], "c": [(float("nan"),) * 7]}
VIDEOS = dict.fromkeys(["a_b_0", "a_b_1", "a_b_2", "c_0", "d_0"], b"video")


@pytest.mark.parametrize("kind", ["csd", "csv"])
def test_a_segment_has_the_seven_numbers_of_its_row(tmp_path: Path, listed, kind: str) -> None:
    """Bug caught: rows shifted; an id with an underscore split in the wrong place; not-a-number taken for a label."""
    videos = listed(mosei(tmp_path / "d", ROWS, VIDEOS, kind=kind))
    labels = {name: video.labels for name, video in videos.items()}
    assert labels["Segmented/a_b_1.mp4"] == dict(zip(MOSEI_COLUMNS, ROWS["a_b"][1], strict=True))
    assert all(type(value) is float for value in labels["Segmented/a_b_0.mp4"].values())
    assert [labels[f"Segmented/{name}.mp4"] for name in ("a_b_2", "c_0", "d_0")] == [{}, {}, {}]
    assert videos["Segmented/a_b_2.mp4"].identity == "mosei-a_b"


def test_folds_are_by_video(tmp_path: Path, listed) -> None:
    """Bug caught: segments of one speaker on both sides."""
    lists = {"test": split_list(tmp_path / "test.json", ["a_b"]), "train": split_list(tmp_path / "train.json", ["c"])}
    videos = listed(mosei(tmp_path / "d", ROWS, VIDEOS), mosei=lists)
    assert [video.split for video in videos.values()] == ["test", "test", "test", "train", None]


def test_without_labels_it_is_a_folder_like_any_other(tmp_path: Path, listed) -> None:
    """Bug caught: every folder called Segmented taken for MOSEI's."""
    put(tmp_path / "d" / "Segmented" / "a_1.mp4", b"video")
    (video,) = listed(tmp_path / "d").values()
    assert (video.labels, video.identity) == ({}, None)


def _hostile(path: Path, how: str) -> None:
    if how in ("text", "empty"):
        path.write_bytes(b"no HDF5" if how == "text" else b"")
        return
    with h5py.File(path, "w") as file:
        data = file.create_group("All Labels/data")
        secret = path.with_name("secret.h5")
        with h5py.File(secret, "w") as other:
            other["features"] = np.ones((1, 7))
        group = data.create_group("a_b")
        if how == "external link":
            group["features"] = h5py.ExternalLink(str(secret), "features")
        elif how == "soft link":
            group["features"] = h5py.SoftLink("/elsewhere")
        elif how == "external storage":
            group.create_dataset("features", (1, 7), "f8", external=[(str(secret), 0, 56)])
        elif how == "virtual":
            table = h5py.VirtualLayout((1, 7), "f8")
            table[:] = h5py.VirtualSource(str(secret), "features", (1, 7))
            group.create_virtual_dataset("features", table)
        elif how == "huge":
            group.create_dataset("features", (1 << 40, 7), "f8", chunks=(1024, 7), compression="gzip")
        elif how == "objects":
            group.create_dataset("features", (1, 7), h5py.string_dtype())
        elif how == "six columns":
            group["features"] = np.ones((1, 6))


HOSTILE = "text|empty|no data|external link|soft link|external storage|virtual|huge|objects|six columns"


@pytest.mark.parametrize("how", HOSTILE.split("|"))
def test_a_damaged_or_hostile_label_file_is_refused(tmp_path: Path, how: str) -> None:
    """Bug caught: another file read through HDF5's links; a table of terabytes unpacked; labels of other columns."""
    root = mosei(tmp_path / "d", ROWS, VIDEOS)
    _hostile(root / "CMU_MOSEI_Labels.csd", how)
    why = "of its own" if how.endswith("link") else ""  # refused by what it is, and not by what opening it does
    with pytest.raises(mosei_hdf5.DAMAGE, match=why):
        mosei_hdf5.read_hdf5(str(root / "CMU_MOSEI_Labels.csd"))


def test_a_label_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, listed) -> None:
    """Bug caught: a traceback that comes out of the sandbox."""
    root = mosei(tmp_path / "d", ROWS, VIDEOS)
    _hostile(root / "CMU_MOSEI_Labels.csd", "six columns")
    with pytest.raises(ConfigError, match=r"CMU_MOSEI_Labels.csd is damaged \(.*\(1, 6\).*fetch it again"):
        listed(root)


def test_reading_that_never_ends_is_ended(tmp_path: Path, monkeypatch) -> None:
    """Bug caught: a night that waits for ever inside a native library; here a pipe that nobody writes to."""
    monkeypatch.setattr(layout, "HDF5_DEADLINE_S", 0.5)
    os.mkfifo(tmp_path / "CMU_MOSEI_Labels.csd")
    with pytest.raises(ConfigError, match="killed after its deadline"):
        layout._read_labels(str(tmp_path / "CMU_MOSEI_Labels.csd"))


@pytest.mark.parametrize("text", ["", "video_id,clip_id\na,1\n", "{}", "\0", 'x,"'])
def test_a_csv_that_is_not_the_labels_is_one_sentence(tmp_path: Path, listed, text: str) -> None:
    """Bug caught: a csv of other columns that labels everything 0."""
    root = mosei(tmp_path / "d", ROWS, VIDEOS, kind="csv")
    (root / "CMU_MOSEI_Labels.csv").write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        listed(root)
    lines = [",".join(["video_id", "clip_id", *MOSEI_COLUMNS]), "a_b,zero,1,2,3,4,5,6,7"]
    (root / "CMU_MOSEI_Labels.csv").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="zero"):
        listed(root)


def test_more_segments_than_can_be_are_refused(tmp_path: Path, monkeypatch) -> None:
    """Bug caught: many small tables that together fill the memory."""
    monkeypatch.setattr(mosei_hdf5, "MAX_SEGMENTS", 2)
    with pytest.raises(ValueError, match="more than 2 segments"):
        mosei_hdf5.read_hdf5(str(mosei(tmp_path / "d", ROWS, VIDEOS) / "CMU_MOSEI_Labels.csd"))
