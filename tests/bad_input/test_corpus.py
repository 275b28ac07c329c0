"""Every kind of bad file in one ingest: each becomes clips or a reject with its reason, and nothing else is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.ray_session import ray_session
from pipeline.config import IngestConfig, LimitConfig
from pipeline.dataset.reader import DatasetReader, open_dataset
from pipeline.dataset.show import video_rows
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import IngestReport, ingest
from pipeline.media.decode import decode_clip
from pipeline.media.probe import check_readable
from pipeline.rejects import RejectError
from tests.support.bad_corpus import CLIPS, NOT_LISTED, Case, make_corpus


@pytest.fixture(scope="module")
def corpus(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, make_corpus(folder, sample_videos / "single_face.mp4", tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def ingested(corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestReport, DatasetReader]:
    out = str(tmp_path_factory.mktemp("dataset") / "d")
    with ray_session(2):
        report = ingest(IngestConfig(sources=(str(corpus[0]),), out=out))
    return report, open_dataset(out)


def _became(reader: DatasetReader) -> dict[str, str]:
    return {row["name"]: row["reject"] or CLIPS for row in video_rows(reader)}


def test_each_file_becomes_what_it_must(corpus, ingested) -> None:
    """Bug caught: a file that stops the night, vanishes, is rejected for another reason, or is opened by mistake."""
    report, reader = ingested
    expected = {case.listed_as: case.becomes for case in corpus[1] if case.becomes != NOT_LISTED}
    assert _became(reader) == expected
    assert report.listed == report.treated == len(expected)
    assert all(row["detail"] for row in video_rows(reader) if row["reject"])


def test_what_came_out_is_whole_and_has_the_frames_that_were_there(ingested) -> None:
    """Bug caught: clips of damaged videos that cannot be read; frames invented where a container lies."""
    _, reader = ingested
    assert verify_dataset(reader) == []
    rows = {row["name"]: row for row in video_rows(reader)}
    for lying in ("more frames than there are.avi", "fewer frames than there are.avi", "longer than it is.mp4",
                  "times of a million frames.mp4", "a frame an hour.mp4", "variable rate.mp4"):  # fmt: skip
        assert rows[lying]["decoded"] == 16, lying
    assert (rows["rotated.mp4"]["width"], rows["rotated.mp4"]["height"]) == (270, 480)
    for entry in reader.shards:
        for row in range(entry.clips):
            clip = reader.read_clip(entry.unit, row)
            assert decode_clip(clip.mp4).shape == (clip.meta.frames, 224, 224, 3)


def test_no_file_outside_the_source_was_read(ingested) -> None:
    """Bug caught: a playlist or link in an untrusted file that carries the host's files into the dataset."""
    secret = Path("/etc/passwd").read_bytes().splitlines()[0]
    folder = Path(ingested[1].storage.uri)
    assert not any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.skipif(os.geteuid() != 0, reason="whoever is not root meets such a file in the corpus itself")
def test_a_file_without_permission_is_unreadable_for_another_user(tmp_path: Path) -> None:
    """Bug caught: a permission that is denied taken for an error of ours. Root may read all, so another asks."""
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"secret")
    path.chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises(RejectError, match=r"unreadable: .*Permission denied"):
            check_readable(str(path))
    finally:
        os.seteuid(0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_8k_and_two_hours_become_clips_within_the_memory_limit(
    sample_videos: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bug caught: memory that grows with the frame or with the length; a deadline that forgets the length."""
    (tmp_path / "videos").mkdir()
    make_corpus(tmp_path / "videos", sample_videos / "single_face.mp4", tmp_path_factory.mktemp("scratch"), heavy=True)
    limits = LimitConfig(memory_mb=2560, attempts=1)
    cfg = IngestConfig(sources=(str(tmp_path / "videos"),), out=str(tmp_path / "d"), limits=limits)
    with ray_session(2):
        ingest(cfg)
    rows = {row["name"]: row for row in video_rows(open_dataset(cfg.out))}
    assert {name: row["reject"] for name, row in rows.items()} == {"8k.mp4": None, "two hours.mp4": None}
    assert rows["8k.mp4"]["width"] == 7680
    assert rows["two hours.mp4"]["decoded"] == 7200
