from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import EmbeddedFaces, IngestConfig
from pipeline.places import frames_folder
from pipeline.requests import Extract
from pipeline.rows import SourceVideo
from pipeline.sources.content import content_digest
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import open_source
from pipeline.sources.seen import Sight
from pipeline.sources.staging import source_video
from pipeline.workers import ClipWorker
from tests.support.layouts import put, split_list, youtube_faces

GREY = np.full((3, 16, 16, 3), 128, np.uint8)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "ytf"
    for person, video in (("Aaron_Eckhart", "0"), ("Aaron_Eckhart", "10"), ("Zoë_X", "2")):
        youtube_faces(root, person, video, GREY, boxes=[(2, 2, 12, 12)] * 3)
    return root


def test_a_folder_of_frames_is_one_video_and_its_parent_the_person(tree: Path, listed) -> None:
    """Bug caught: 600,000 pictures listed as files, or opened one by one; the label files taken for videos."""
    (tree / "frame_images_DB" / "Aaron_Eckhart" / "0" / "movie.mp4").write_bytes(b"beside the frames")
    videos = listed(tree)
    assert {name: video.identity for name, video in videos.items()} == {
        "frame_images_DB/Aaron_Eckhart/0": "ytf-Aaron_Eckhart",
        "frame_images_DB/Aaron_Eckhart/10": "ytf-Aaron_Eckhart",
        "frame_images_DB/Zoë_X/2": "ytf-Zoë_X",
    }
    for name, video in videos.items():
        assert frames_folder(video.place) == str(tree / name)
        assert video.bytes == content_digest(video.place)[1]


def test_any_folder_of_the_tree_can_be_the_source(tree: Path, listed) -> None:
    """Bug caught: a layout that is only known from its top."""
    assert list(listed(tree / "frame_images_DB" / "Zoë_X")) == ["2"]
    assert list(listed(tree / "frame_images_DB" / "Zoë_X" / "2")) == ["2"]


def test_aligned_copies_are_left_out_and_other_folders_of_pictures_are_none(tree: Path, listed) -> None:
    """Bug caught: each face twice in the dataset; somebody's photo album as a video."""
    for name in ("aligned_images_DB/Zoë_X/2/aligned_detect_2.1.jpg", "album/holiday/1.jpg", "frame_images_DB/x/readme"):
        put(tree / name, b"jpeg")
    assert len(listed(tree)) == 3


def test_the_fingerprint_changes_with_any_frame_and_is_none_while_one_is_young(tree: Path, listed) -> None:
    """Bug caught: a frame replaced by one of the same size that no night sees."""

    def fingerprint() -> str | None:
        return listed(tree)["frame_images_DB/Zoë_X/2"].fingerprint

    frames = sorted((tree / "frame_images_DB" / "Zoë_X" / "2").iterdir())
    assert fingerprint() is None
    for frame in frames:
        os.utime(frame, ns=(0, 10**9))
    seen = [fingerprint()]
    os.utime(frames[1], ns=(0, 10**9 + 1))
    seen.append(fingerprint())
    frames[1].rename(frames[1].with_name("2.7.jpg"))
    seen.append(fingerprint())
    assert len({*seen, None}) == 4


def test_a_listed_video_decides_for_its_person(tree: Path, tmp_path: Path, listed) -> None:
    """Bug caught: a person-disjoint split that is none, since unlisted videos of a person fall elsewhere."""
    lists = {
        "train": split_list(tmp_path / "train.json", ["Aaron_Eckhart/0"]),
        "val": split_list(tmp_path / "val.json", ["Somebody/1"]),
    }
    splits = {name.split("_DB/")[1]: video.split for name, video in listed(tree, youtube_faces=lists).items()}
    assert splits == {"Aaron_Eckhart/0": "train", "Aaron_Eckhart/10": "train", "Zoë_X/2": None}


def test_names_that_are_no_text_survive(tmp_path: Path, listed) -> None:
    """Bug caught: a person whose name is Latin-1 that breaks the plan, or cannot be opened by the worker."""
    raw = os.fsdecode(b"Ren\xe9e")
    folder = youtube_faces(tmp_path / "ytf", raw, "1", GREY)
    (video,) = listed(tmp_path / "ytf").values()
    assert (video.name, video.identity) == ("frame_images_DB/Ren\\xe9e/1", "ytf-Ren\\xe9e")
    assert frames_folder(video.place) == str(folder)
    video.place.encode()


def test_corrected_boxes_are_another_video_of_the_same_frames_and_only_where_boxes_are_used(tree: Path) -> None:
    """Bug caught: a corrected label file that no ingest sees; one that changes videos whose boxes are detected."""

    def digests(*, used: bool) -> dict[str, SourceVideo]:
        listed = open_source(str(tree), Layouts(labelled_boxes=used)).list()
        return {v.name: source_video(v, Sight(*content_digest(v.place)), v.place) for v in listed}

    before, detected = digests(used=True), digests(used=False)
    file = tree / "frame_images_DB" / "Aaron_Eckhart.labeled_faces.txt"
    lines = file.read_text().splitlines()
    changed = next(n for n, line in enumerate(lines) if "\\10\\" in line)
    lines[changed] = lines[changed].replace(",7", ",8", 1)
    file.write_text("\n".join(lines))
    after = digests(used=True)
    assert digests(used=False) == detected
    assert {name for name in before if before[name] != after[name]} == {"frame_images_DB/Aaron_Eckhart/10"}
    for name, video in after.items():  # a removal of the frames finds each of them
        assert (video.content, detected[name].content) == (detected[name].digest, "")


def test_a_worker_refuses_boxes_that_changed_since_the_listing(tree: Path, tmp_path: Path) -> None:
    """Bug caught: clips by the new boxes under the identity of the old ones."""
    (listed,) = open_source(str(tree / "frame_images_DB" / "Zoë_X"), Layouts(labelled_boxes=True)).list()
    video = source_video(listed, Sight(*content_digest(listed.place)), listed.place)
    worker = ClipWorker(IngestConfig(faces=EmbeddedFaces(labelled_boxes=True)), "ab" * 32)

    def detail() -> str | None:
        return worker(Extract(video, video.path, tmp_path / "clips.tar")).detail

    assert detail() != "changed between listing and reading"
    file = tree / "frame_images_DB" / "Zoë_X.labeled_faces.txt"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    assert detail() == "changed between listing and reading"
