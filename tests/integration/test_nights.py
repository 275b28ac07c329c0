"""Nights after one another, over sources of several kinds, with real decoding: what is new, again, gone and refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.config import validate_config
from infra.errors import ConfigError
from infra.ray_session import ray_session
from infra.run import RunContext
from infra.storage import open_storage
from model.licences import dataset_licences, non_commercial
from pipeline import graph
from pipeline.config import IngestConfig, TrackConfig
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.show import summary, video_rows
from pipeline.dataset.takedown import REMOVED_KEY
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import DatasetVersion
from pipeline.dry_run import plan_ingest
from pipeline.ingest import ingest
from pipeline.rows import RejectReason
from tests.support.web_server import Page, WebServer, web_server

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def ray_on_two_cpus() -> Iterator[None]:
    with ray_session(2):
        yield


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


def _cfg(tmp_path: Path, *sources: str, **more: object) -> IngestConfig:
    fetch = {"allow_private": True, "cache": str(tmp_path / "cache"), "backoff_s": 0.0, "attempts": 2,
             "requests_per_s": 1000.0}  # fmt: skip
    tree = {"sources": sources, "out": str(tmp_path / "d"), "fetch": fetch, "workers": 1, **more}
    return validate_config(IngestConfig, tree, where="the test")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_manifest_a_folder_and_their_next_nights(
    server: WebServer, sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: labels or splits of a manifest lost, secrets stored, bytes left over, anything done twice.

    Night 1 treats; night 2 does nothing; night 3 finds that the server which failed is back, and a link gone since.
    """
    face, other = (sample_videos / name for name in ("single_face.mp4", "face_noface.mov"))
    server.pages = {
        "/face.mp4?token=secret": Page(face.read_bytes()),
        "/later.mov": Page(before=[(503, {})] * 4),
        "/gone.mp4": Page(status=404),
    }
    (tmp_path / "list.csv").write_text(
        "url,split,identity,smile\n"
        f"{server.url.replace('//', '//me:word@')}/face.mp4?token=secret,val,someone,yes\n"
        f"{server.url}/later.mov,,,\n{server.url}/gone.mp4,,,\n/etc/passwd,,,\n"
    )
    (tmp_path / "videos").mkdir()
    shutil.copy(face, tmp_path / "videos" / "twin.mp4")
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    cfg = _cfg(tmp_path, str(tmp_path / "list.csv"), str(tmp_path / "videos"))

    before = _tree(tmp_path)
    dry = plan_ingest(cfg)
    assert _tree(tmp_path) == before
    assert (dry.version, dry.listed, dry.known, dry.videos, dry.unsized) == (None, 6, 0, 6, 4)
    assert dry.by_kind == {"http": 3, "local": 2, "unknown": 1}
    assert (server.asked, dry.seconds) == ([], None)
    assert "6 videos listed: 0 known, 0 taken down, 6 to do (3 http, 2 local, 1 unknown)" in dry.lines()

    with RunContext.create("ingest", cfg, folder=tmp_path / "run") as run:
        first = ingest(cfg, run)
    assert first.rejects == {"empty": 1, "fetch_failed": 1, "refused": 1, "unreachable": 1}
    assert (first.version, first.listed, first.treated) == (1, 6, 5)
    reader = open_dataset(cfg.out)
    assert verify_dataset(reader) == []
    assert not any(word in json.dumps(row) for row in video_rows(reader) for word in ("secret", "word@", "me:"))
    (entry,) = reader.shards
    clip = reader.read_clip(entry.unit, 0).meta
    assert (clip.split, clip.identity, clip.labels) == ("val", "someone", {"smile": "yes"})
    assert {path.name for path in Path(cfg.out).iterdir()} == {
        ".lock", "shards", "manifests", "videos", "versions", "seen"
    }  # fmt: skip
    for path, data in (_tree(Path(cfg.out)) | _tree(tmp_path / "run")).items():
        assert b"secret" not in data, path
        assert b"word@" not in data, path

    asked = len(server.asked)
    with monkeypatch.context() as patched:
        patched.setattr(graph, "treat_videos", lambda *_: pytest.fail("videos were treated again"))
        second = ingest(cfg)
    assert (second.new, second.version, second.rejects) == (False, 1, {})
    assert [path for path, _ in server.asked[asked:]] == ["/later.mov"] * 2  # the server that failed, and nobody else

    server.pages["/later.mov"] = Page(other.read_bytes())
    dry = plan_ingest(cfg)
    assert (dry.version, dry.known, dry.videos, dry.retried) == (1, 5, 1, 1)
    third = ingest(cfg)
    assert (third.new, third.version, third.treated, third.rejects) == (True, 2, 1, {})
    assert summary(open_dataset(cfg.out))["videos"] == 2
    assert verify_dataset(open_dataset(cfg.out)) == []
    later = plan_ingest(cfg.model_copy(update={"sources": (*cfg.sources, str(other))}))
    assert (later.videos, later.bytes) == (1, other.stat().st_size)
    assert later.seconds is not None
    assert later.seconds > 0


def test_a_retry_treats_rejects_again_and_their_latest_outcome_counts(sample_videos: Path, tmp_path: Path) -> None:
    """Bug caught: a retry that does nothing, overwrites the unit that rejected, or counts a video twice."""
    (tmp_path / "videos").mkdir()
    for name in ("single_face.mp4", "no_face.mp4"):
        shutil.copy(sample_videos / name, tmp_path / "videos")
    strict = _cfg(tmp_path, str(tmp_path / "videos"), track=TrackConfig(min_frames=8).model_dump())
    first = ingest(strict)
    assert first.rejects == {"no_face": 1}
    old = _tree(Path(strict.out))
    assert not ingest(strict).new
    assert not ingest(strict, retry={RejectReason.TIMEOUT}).new
    assert plan_ingest(strict, retry={RejectReason.NO_FACE}).retried == 1
    again = ingest(strict, retry={RejectReason.NO_FACE})
    assert (again.new, again.version, again.treated, again.rejects) == (True, 2, 1, {"no_face": 1})
    assert old.items() <= _tree(Path(strict.out)).items()
    reader = open_dataset(strict.out)
    assert verify_dataset(reader) == []
    assert [row["reject"] for row in video_rows(reader)] == ["no_face", None]
    assert open_dataset(strict.out, 1).version.units == reader.version.units[:-1]


def test_every_nights_licence_stays_with_the_dataset_and_an_interrupted_plan_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches videos "for research only" that pass for MIT because a later night's videos were."""
    (tmp_path / "videos").mkdir()
    cfg = _cfg(tmp_path, str(tmp_path / "videos"))

    def night(name: str, licence: str) -> DatasetVersion:
        (tmp_path / "videos" / name).write_text(f"no video is in {name}")
        ingest(cfg.model_copy(update={"source_licence": licence}))
        return open_dataset(cfg.out).version

    assert night("a.mp4", "CC-BY-NC-4.0").source_licences == ("CC-BY-NC-4.0",)
    with monkeypatch.context() as patched:
        patched.setattr(graph, "treat_videos", _killed)
        with pytest.raises(RuntimeError, match="killed"):
            night("b.mp4", "CC-BY-4.0")
    assert night("c.mp4", "MIT").source_licences == ("CC-BY-NC-4.0", "CC-BY-4.0", "MIT")
    assert open_dataset(cfg.out, 2).version.source_licences == ("CC-BY-NC-4.0", "CC-BY-4.0")
    last = night("d.mp4", "CC-BY-NC-4.0")
    assert (last.version, last.source_licences) == (4, ("CC-BY-NC-4.0", "CC-BY-4.0", "MIT"))
    assert non_commercial(dataset_licences(last))[0] == "videos: CC-BY-NC-4.0"


def _killed(*_: object) -> Iterator[object]:
    raise RuntimeError("killed")


def test_a_source_that_is_not_mounted_tonight_is_no_success(tmp_path: Path) -> None:
    """Catches a share that is gone while the alert on the last success stays quiet."""
    (tmp_path / "nfs").mkdir()
    (tmp_path / "nfs" / "a.mp4").write_text("no video")
    cfg = _cfg(tmp_path, str(tmp_path / "nfs"))
    ingest(cfg)
    (tmp_path / "nfs" / "a.mp4").unlink()
    for attempt in (ingest, plan_ingest):
        with pytest.raises(ConfigError, match="mounted"):
            attempt(cfg)
    with RunContext.create("ingest", cfg, folder=tmp_path / "run") as run:
        report = ingest(cfg.model_copy(update={"allow_empty_sources": True}), run)
    assert (report.new, report.listed) == (False, 0)
    assert 'marlin_ingest_videos_listed{source="1"} 0.0\n' in (tmp_path / "run" / "metrics.prom").read_text()


def test_what_was_taken_down_does_not_come_back(sample_videos: Path, tmp_path: Path) -> None:
    """Bug caught: the next night's crawl brings a removed person back, or keeps a word about the video."""
    (tmp_path / "videos").mkdir()
    gone = sample_videos / "single_face.mp4"
    shutil.copy(gone, tmp_path / "videos" / "somebody.mp4")
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    cfg = _cfg(tmp_path, str(tmp_path / "videos"))
    digest = hashlib.sha256(gone.read_bytes()).hexdigest()
    open_storage(cfg.out).write(REMOVED_KEY, json.dumps({"schema": 2, "removed": [digest]}).encode())
    for _ in range(2):
        report = ingest(cfg)
        assert (report.listed, report.rejects["removed"], report.version, report.clips) == (2, 1, 1, 0)
    assert not any(b"somebody" in data or digest[:16].encode() in data
                   for path, data in _tree(Path(cfg.out)).items() if not path.endswith(REMOVED_KEY))  # fmt: skip
