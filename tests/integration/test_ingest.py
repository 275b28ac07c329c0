"""The whole ingestion on real videos: Ray, child processes, real detection, real shards."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import ConfigError, DatasetError, StorageError
from infra.ray_session import ray_session
from infra.run import RunContext
from infra.storage import open_storage
from pipeline import graph
from pipeline.config import IngestConfig, TrackConfig
from pipeline.dataset.contact_sheet import contact_sheet
from pipeline.dataset.lock import writer_lock
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.report import write_report
from pipeline.dataset.show import summary
from pipeline.dataset.verify import verify_dataset
from pipeline.ingest import IngestReport, ingest
from pipeline.media.decode import decode_clip

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", autouse=True)
def ray_on_two_cpus() -> Iterator[None]:
    """One Ray for all of this file, as small as the smallest machine: pools that book too much would hang here."""
    with ray_session(2):
        yield


@pytest.fixture(scope="module")
def videos(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: a face, its twin under a strange name, no face, an empty file, no video."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    shutil.copy(sample_videos / "single_face.mp4", folder / "sub" / "face.mp4")
    shutil.copy(sample_videos / "single_face.mp4", folder / 'twin "of\nit".bin')
    shutil.copy(sample_videos / "no_face.mp4", folder / "no_face.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    (folder / "readme.md").write_text("neither is this, and nobody says so")
    return folder


@pytest.fixture(scope="module")
def dataset(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[IngestConfig, IngestReport, Path]:
    out = tmp_path_factory.mktemp("dataset")
    cfg = IngestConfig(sources=(str(videos),), out=str(out / "d"), source_licence="MIT")
    with RunContext.create("ingest", cfg, folder=out / "run") as run:
        return cfg, ingest(cfg, run), out


def _files(dataset: str, *folders: str) -> dict[str, bytes]:
    """What the store lists: a writer that was killed may leave a temporary name, which is no key."""
    store = open_storage(dataset)
    return {key: store.read(key) for folder in folders for key in store.list(f"{folder}/")}


def test_a_folder_becomes_a_whole_dataset_and_what_is_no_face_video_is_data(dataset) -> None:
    """Bug caught: a bad file that stops the job or vanishes without a reason; twins counted twice; leftovers."""
    cfg, report, _ = dataset
    assert report.new
    assert (report.version, report.listed, report.treated) == (1, 5, 4)
    assert report.rejects == {"empty": 1, "no_face": 1, "not_video": 1}
    reader = open_dataset(cfg.out)
    assert verify_dataset(reader) == []
    shown = summary(reader)
    assert (shown["videos"], shown["clips"], shown["frames"]) == (1, report.clips, 72)
    assert shown["rejects"] == report.rejects
    assert not {"work", "units", "plan.json"} & {path.name for path in Path(cfg.out).iterdir()}
    assert [part.part for part in reader.version.licences] == ["centerface", "landmarks68"]


def test_each_clip_decodes_to_as_many_frames_as_it_claims_with_regions_on_the_face(dataset) -> None:
    """Bug caught: frames lost in encoding; region maps empty, or shifted off the face."""
    reader = open_dataset(dataset[0].out)
    (entry,) = reader.shards
    for row in range(entry.clips):
        clip = reader.read_clip(entry.unit, row)
        assert decode_clip(clip.mp4).shape == (clip.meta.frames, 224, 224, 3)
        eyes, mouth = ((clip.regions >> label & 1).nonzero()[1].mean() for label in (4, 8))
        nose = (clip.regions >> 6 & 1).nonzero()[1].mean()
        assert 4 < eyes < nose < mouth < 26
        left, right = ((clip.regions >> label & 1).nonzero()[2].mean() for label in (4, 5))
        assert left > right  # the person's left eye is on the picture's right


def test_running_again_with_nothing_new_decodes_nothing_and_makes_no_version(
    dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a nightly run that treats everything anew, or piles up versions that change nothing."""
    cfg, first, _ = dataset
    monkeypatch.setattr(graph, "treat_videos", lambda *_: pytest.fail("videos were treated again"))
    again = ingest(cfg)
    assert (again.new, again.version, again.treated, again.counts) == (False, 1, 0, first.counts)


def test_one_new_video_is_the_only_one_treated_and_makes_version_2(
    dataset, sample_videos: Path, tmp_path: Path
) -> None:
    """Bug caught: old shards rewritten, old videos treated again, an old version changed."""
    cfg, first, _ = dataset
    shutil.copytree(cfg.out, tmp_path / "d")
    shutil.copytree(cfg.sources[0], tmp_path / "videos")
    shutil.copy(sample_videos / "face_noface.mov", tmp_path / "videos" / "new.txt")
    before = _files(str(tmp_path / "d"), "shards", "manifests", "videos", "versions")
    changes = {"out": str(tmp_path / "d"), "sources": (str(tmp_path / "videos"),), "workers": 1}
    report = ingest(cfg.model_copy(update=changes))
    assert (report.new, report.version, report.treated) == (True, 2, 1)
    after = _files(str(tmp_path / "d"), "shards", "manifests", "videos", "versions")
    assert before.items() < after.items()
    newest, oldest = open_dataset(str(tmp_path / "d")), open_dataset(str(tmp_path / "d"), 1)
    assert newest.version.units[:1] == oldest.version.units
    assert newest.version.counts.clips == first.counts.clips + report.clips
    assert verify_dataset(newest) == []


def test_other_settings_are_refused_by_name(dataset) -> None:
    """Bug caught: clips of two recipes mixed in one dataset without a word."""
    cfg = dataset[0].model_copy(update={"track": TrackConfig(margin=1.6)})
    with pytest.raises(ConfigError, match=r"track\.margin \(1\.3, now 1\.6\)"):
        ingest(cfg)


def test_a_store_that_refuses_in_the_middle_leaves_no_version_and_the_next_run_gives_the_same_bytes(
    dataset, videos: Path, tmp_path: Path
) -> None:
    """Bug caught: a full disk that leaves a broken version, or makes the finished work be done again."""
    cfg = dataset[0].model_copy(update={"out": str(tmp_path / "d"), "workers": 1})
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".lock").touch()
    (tmp_path / "d" / "shards").write_bytes(
        b"a file where a folder is needed: writing a shard fails, as on a full disk"
    )
    with pytest.raises(StorageError, match="cannot write"):
        ingest(cfg)
    with pytest.raises(DatasetError, match="no dataset version"):
        open_dataset(cfg.out)
    finished = sorted(path for path in (tmp_path / "d" / "work").rglob("*.clips.tar"))
    times = [path.stat().st_mtime_ns for path in finished]
    assert finished
    (tmp_path / "d" / "shards").unlink()
    watcher = _Watch(finished[0])
    report = ingest(cfg)
    assert (report.new, report.treated) == (True, 4)
    assert watcher.seen() == set(times)
    assert _files(cfg.out, "shards", "manifests") == _files(dataset[0].out, "shards", "manifests")


class _Watch:
    """Collects the modification times that a file has while a job runs: one time means that nobody rewrote it."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen, self._stop = path, {path.stat().st_mtime_ns}, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self._seen.add(self._path.stat().st_mtime_ns)
            except FileNotFoundError:
                continue

    def seen(self) -> set[int]:
        self._stop.set()
        self._thread.join()
        return self._seen


def test_the_report_shows_the_funnel_the_reasons_and_the_faces(dataset, tmp_path: Path) -> None:
    """Bug caught: a reject without its reason on the page; names that break the page; no word on hair and licences."""
    reader = open_dataset(dataset[0].out)
    text = write_report(reader, tmp_path / "report.html").read_text()
    for words in (
        "no face",
        "not video",
        "empty",
        "sub/face.mp4",
        "knows no hair",
        "data:image/png",
        "MIT",
        "track.margin",
    ):
        assert words in text, words
    png, names = contact_sheet(reader, max_faces=2)
    assert png.startswith(b"\x89PNG")
    assert names == ["sub/face.mp4 (track 0)"]


def test_the_run_record_names_inputs_outputs_and_licences(dataset) -> None:
    """Bug caught: a dataset whose origin nobody can tell."""
    record = (dataset[2] / "run" / "run.json").read_text()
    for words in ('"version 1"', '"MIT"', "landmarks68", '"done"'):
        assert words in record
    assert (dataset[2] / "run" / "progress.json").exists()
    metrics = (dataset[2] / "run" / "metrics.prom").read_text()
    for line in ("videos_total 4.0", 'rejects_total{reason="no_face"} 1.0', "dataset_version 1.0", "in_progress 0.0"):
        assert f"{line}\n" in metrics, line


@pytest.mark.parametrize(
    ("sources", "out", "words"),
    [
        ((), "d", "no source is given"),
        (("absent",), "d", "does not exist"),
        (("nothing",), "d", "no video was found"),
        (("nothing",), "nothing/d", "inside its source"),
    ],
)
def test_wrong_use_is_one_sentence_and_makes_no_dataset(tmp_path: Path, sources: tuple, out: str, words: str) -> None:
    """Bug caught: a traceback, an empty dataset, or a dataset that would be ingested itself the next night."""
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.md").write_text("no video")
    cfg = IngestConfig(sources=tuple(str(tmp_path / name) for name in sources), out=str(tmp_path / out))
    with pytest.raises(ConfigError, match=words):
        ingest(cfg)
    assert not (tmp_path / out / "versions").exists()


def test_two_ingests_of_one_dataset_do_not_run_at_once(dataset) -> None:
    """Bug caught: two nights that overlap and sweep each other's work."""
    with writer_lock(open_storage(dataset[0].out)), pytest.raises(DatasetError, match="another ingest"):
        ingest(dataset[0])
