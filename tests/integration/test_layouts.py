"""Known datasets from disk to dataset version: labels, identity, split, cuts and rates arrive with the clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.ray_session import ray_session
from pipeline.config import EmbeddedFaces, IngestConfig, SplitConfig
from pipeline.dataset.reader import DatasetReader, RawClip, open_dataset
from pipeline.dataset.verify import verify_dataset
from pipeline.faces.centerface import CenterFaceDetector
from pipeline.faces.labelled import boxes_digest
from pipeline.ingest import ingest
from pipeline.media.cut import box_pixels
from pipeline.media.decode import decode_clip, read_frames
from pipeline.media.frame_folder import FolderFrames
from pipeline.places import frames_place
from pipeline.rows import Cut
from pipeline.sources.content import content_digest, cut_digest
from tests.support.layouts import CelebClip, celebvhq, lrs2, split_list, youtube_faces

pytestmark = pytest.mark.timeout(480)

BOX = (0.45, 0.0, 0.95, 1.0)
CUTS = {"wolf_0": (5.0, 7.0), "wolf_1": (12.0, 13.5)}
"""At 24000/1001 frames per second: frames 120 to 167, and 288 to 323."""
YTF_FRAMES = 40


@pytest.fixture(scope="module")
def datasets(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YouTube Faces, CelebV-HQ and LRS2 in one folder, of real faces; each frame of the first is labelled."""
    root = tmp_path_factory.mktemp("datasets")
    frames_FHWC = read_frames(str(sample_videos / "single_face.mp4"), range(YTF_FRAMES))
    found = CenterFaceDetector(480, 0.5).detect(frames_FHWC)
    youtube_faces(root / "ytf", "Zoë_X", "3", frames_FHWC, first=618, boxes=[faces.boxes_N4[0] for faces in found])
    clips = {
        name: CelebClip("wolf", start, end, BOX, ("male",), ("talk",), "happy") for name, (start, end) in CUTS.items()
    }
    celebvhq(root / "celebvhq", clips, {"raw/wolf.mp4": sample_videos / "WolfgangLanger_Pexels.mp4"})
    words = {"main/55/00001": ("WHEN YOU'RE COOKING", sample_videos / "single_face.mp4")}
    lrs2(root / "lrs2", words, {"test": ["55/00001"]})
    return root


@pytest.fixture(scope="module")
def reader(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    out = tmp_path_factory.mktemp("dataset")
    val = split_list(out / "val.json", ["Zoë_X/3"])
    cfg = IngestConfig(
        sources=(str(datasets),),
        out=str(out / "d"),
        faces=EmbeddedFaces(labelled_boxes=True),
        split=SplitConfig(official={"youtube_faces": {"val": val}}),  # type: ignore[dict-item]
    )
    with ray_session(2):
        report = ingest(cfg)
        assert (report.listed, report.treated, report.rejects) == (4, 4, {})
        again = ingest(cfg)
        assert (again.new, again.treated) == (False, 0)
    return open_dataset(cfg.out)


def _rows(reader: DatasetReader) -> dict[str, list[dict]]:
    """Manifest rows by the video's name, each with its place in the dataset."""
    rows: dict[str, list[dict]] = {}
    for entry in reader.shards:
        for number, row in enumerate(reader.manifest(entry.unit).to_pylist()):
            rows.setdefault(row["name"], []).append({**row, "at": (entry.unit, number)})
    return rows


def _clip(reader: DatasetReader, row: dict) -> RawClip:
    return reader.read_clip(*row["at"])


def test_labels_identity_split_and_rate_of_each_dataset_arrive_in_the_manifest(reader: DatasetReader) -> None:
    """Bug caught: what a layout tells lost between listing, plan, worker and manifest; 25 frames per second for 24."""
    rows = _rows(reader)
    told = {name: {(row["identity"], row["split"], round(row["fps"], 3)) for row in rows[name]} for name in rows}
    assert set(told) == {"ytf/frame_images_DB/Zoë_X/3", "lrs2/main/55/00001.mp4"} | {
        f"celebvhq/raw/wolf.mp4#{clip}" for clip in CUTS
    }
    assert told["ytf/frame_images_DB/Zoë_X/3"] == {("ytf-Zoë_X", "val", 24.0)}
    assert told["lrs2/main/55/00001.mp4"] == {("lrs2-55", "test", 30.0)}
    assert len({told[f"celebvhq/raw/wolf.mp4#{clip}"].pop()[:2] for clip in CUTS}) == 1
    labels = json.loads(rows["celebvhq/raw/wolf.mp4#wolf_0"][0]["labels"])
    assert (labels["appearance.male"], labels["appearance.bald"], labels["action.talk"]) == (1, 0, 1)
    assert (labels["emotion"], len(labels)) == ("happy", 76)
    assert json.loads(rows["lrs2/main/55/00001.mp4"][0]["labels"]) == {"text": "WHEN YOU'RE COOKING"}
    assert verify_dataset(reader) == []


def test_a_folder_of_frames_is_one_video_with_its_labelled_boxes(reader: DatasetReader, datasets: Path) -> None:
    """Bug caught: pixels of another frame or box in the clip; an identity that is not that of names and bytes."""
    folder = datasets / "ytf" / "frame_images_DB" / "Zoë_X" / "3"
    (row,) = _rows(reader)["ytf/frame_images_DB/Zoë_X/3"]
    clip = _clip(reader, row)
    content, _ = content_digest(frames_place(str(folder)))
    assert row["video"] == cut_digest(content, None, boxes_digest(str(folder)))
    assert (row["frames"], row["score"], clip.meta.source_width) == (YTF_FRAMES, 1.0, 640)
    _assert_shows(clip, np.concatenate([frames for _, frames in FolderFrames(str(folder)).iter_chunks(64)]))


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_a_video_of_its_own_with_its_seconds_and_its_box(
    reader: DatasetReader, sample_videos: Path, name: str
) -> None:
    """Bug caught: frames counted in the file instead of the cut; the box ignored, or applied after the crop's."""
    path = sample_videos / "WolfgangLanger_Pexels.mp4"
    cut = Cut(*CUTS[name], BOX)
    (row,) = _rows(reader)[f"celebvhq/raw/wolf.mp4#{name}"]
    clip = _clip(reader, row)
    content, _ = content_digest(str(path))
    assert (row["video"], clip.meta.cut) == (cut_digest(content, cut), cut)
    assert (row["start_frame"], row["frames"]) == (0, 48 if name == "wolf_0" else 36)
    assert (clip.meta.source_width, clip.meta.source_height) == (320, 360)
    first = 120 if name == "wolf_0" else 288
    x0, y0, x1, y1 = box_pixels(BOX, 640, 360)
    _assert_shows(clip, read_frames(str(path), range(first, first + row["frames"]))[:, y0:y1, x0:x1])


def test_the_ledger_keeps_the_file_of_a_cut(reader: DatasetReader, sample_videos: Path) -> None:
    """Bug caught: a taken-down file whose parts cannot be found."""
    table = pa.concat_tables([reader.videos(entry.unit) for entry in reader.version.units])
    contents = {row["name"]: row["content"] for row in table.to_pylist()}
    content, _ = content_digest(str(sample_videos / "WolfgangLanger_Pexels.mp4"))
    assert {contents[f"celebvhq/raw/wolf.mp4#{clip}"] for clip in CUTS} == {content}
    assert contents["lrs2/main/55/00001.mp4"] == ""


def test_a_file_that_changed_after_planning_is_not_taken_for_its_cut(sample_videos: Path, tmp_path: Path) -> None:
    """Bug caught: clips of another file under the identity of the planned one."""
    from pipeline.requests import Extract
    from pipeline.sources.listing import list_sources
    from pipeline.sources.seen import Sight
    from pipeline.sources.staging import source_video
    from pipeline.workers import ClipWorker

    root = celebvhq(tmp_path / "c", {"v_0": CelebClip("v")}, {"v.mp4": sample_videos / "single_face.mp4"})
    (listed,) = list_sources(IngestConfig(sources=(str(root),), out=str(tmp_path / "d")))
    video = source_video(listed, Sight(*content_digest(listed.place)), listed.place)
    shutil.copy(sample_videos / "no_face.mp4", root / "v.mp4")
    outcome = ClipWorker(IngestConfig(), "ab" * 32)(Extract(video, video.path, tmp_path / "clips.tar"))
    assert (outcome.reject, outcome.detail) == ("unreadable", "changed between listing and reading")


def _assert_shows(clip: RawClip, source_FHWC: np.ndarray) -> None:
    """The clip's pixels must be those of these frames inside its own squares, and of no neighbour of theirs."""
    from pipeline.faces.crop import crop_square

    crops_FHWC = decode_clip(clip.mp4).astype(np.float32)
    for number in (0, clip.meta.frames // 2, clip.meta.frames - 1):
        square = np.array(clip.meta.crops[number], np.float32)
        errors = {
            other: float(np.abs(crop_square(source_FHWC[other], square, 224) - crops_FHWC[number]).mean())
            for other in (number - 2, number, number + 2)
            if 0 <= other < len(source_FHWC)
        }
        assert errors[number] < 4
        assert min(errors, key=errors.__getitem__) == number
