"""The stages around a stand-in worker, since no real video crashes, hangs or swells on demand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from infra.errors import ProjectError, StorageError, WeightsError
from infra.storage import open_storage
from pipeline.config import IngestConfig, LimitConfig
from pipeline.dataset.format import manifest_key, shard_key, work_key
from pipeline.dataset.work import CLIPS, OUTCOME, REGIONS, finished_videos, read_outcome
from pipeline.dataset.writer import read_done
from pipeline.known import Known
from pipeline.places import locator
from pipeline.rows import RejectReason, SourceVideo
from pipeline.stages import FAULTS, FinishedVideo, ParseRegions, PlannedVideo, TrackFaces, WriteShard

STAND_IN = """
import os, time
from dataclasses import replace
from pathlib import Path
from infra.errors import StorageError, WeightsError
from pipeline.dataset.tar import TarReader, TarWriter
from pipeline.dataset.work import OUTCOME, outcome_from_bytes, outcome_to_bytes
from pipeline.requests import Extract, Measure, Parse
from pipeline.rows import VideoOutcome

def behave(what, log):
    with open(log, "a") as file:
        file.write(what + "\\n")
    if what == "crash":
        os.abort()
    if what == "hang":
        time.sleep(600)
    if what == "swell":
        swollen = bytearray(os.urandom(1 << 20)) * 900
        time.sleep(600)
    if what == "raise":
        raise KeyError("our own mistake")
    if what == "poison":
        Clips.is_poisoned = True
    if what == "poison once" and not Path("poisoned").exists():
        Path("poisoned").touch()
        Clips.is_poisoned = True
    if Clips.is_poisoned:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if what == "disk":
        raise StorageError("cannot write scratch: No space left on device")

class Clips:
    is_poisoned = False
    def __init__(self, cfg, recipe):
        if recipe == "no weights":
            raise WeightsError("weights cannot be had; put them there")
        if recipe == "dies once" and not Path("died").exists():
            Path("died").touch()
            os.abort()
        if recipe == "dies":
            os.abort()
        if recipe == "starts once":
            if Path("started").exists():
                raise RuntimeError("No CUDA GPUs are available")
            Path("started").touch()
        if recipe == "broken":
            raise ImportError("libfoo.so is missing")
    def __call__(self, request):
        if isinstance(request, Measure):
            return 1.0
        if isinstance(request, Extract):
            behave(Path(request.path).read_text(), request.path + ".log")
            video = request.video
            outcome = VideoOutcome(video.digest, video.name, video.bytes, clips=1)
            with TarWriter(request.tar) as tar:
                tar.add(OUTCOME, outcome_to_bytes(outcome))
            return outcome

class Regions:
    def __init__(self, cfg):
        pass
    def __call__(self, request):
        if isinstance(request, Parse):
            with TarReader(request.clips) as tar, TarWriter(request.regions):
                outcome = outcome_from_bytes(tar.read(OUTCOME))
            behave(outcome.name.split("+")[-1], os.environ["PARSE_LOG"])
            return replace(outcome, seconds={"parse": 0.1})
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PARSE_LOG", str(tmp_path / "parse.log"))
    monkeypatch.setattr(TrackFaces, "worker", "stand_in:Clips")
    monkeypatch.setattr(ParseRegions, "worker", "stand_in:Regions")
    return tmp_path


LIMITS = LimitConfig(deadline_base_s=3, deadline_per_s=0.1, memory_mb=512, attempts=2)
CFG = IngestConfig(limits=LIMITS)


def _planned(folder: Path, behaviour: str, name: str = "a.mp4", unit_videos: int = 1) -> PlannedVideo:
    path = folder / f"{name.partition('+')[0]}"
    path.write_text(behaviour)
    digest = name.encode().hex().ljust(64, "0")[:64]
    return PlannedVideo("unit", unit_videos, SourceVideo(digest, locator(str(path)), name, len(behaviour)))


@pytest.mark.parametrize(
    ("behaviour", "reason", "attempts"),
    [
        ("crash", RejectReason.CRASHED, 2),
        ("hang", RejectReason.TIMEOUT, 2),
        ("swell", RejectReason.OUT_OF_MEMORY, 2),
        ("raise", RejectReason.INTERNAL, 2),
        ("poison", RejectReason.INTERNAL, 2),
    ],
)
def test_a_video_that_ruins_its_worker_becomes_a_reject_and_the_next_one_is_treated(
    stand_in: Path, behaviour: str, reason: RejectReason, attempts: int
) -> None:
    """Bug caught: a poisoned video that stops the night, is retried without end, or takes its neighbour with it."""
    storage = open_storage(str(stand_in / "dataset"))
    stage = TrackFaces(CFG, "recipe", storage)
    bad, good = _planned(stand_in, behaviour, "bad.mp4"), _planned(stand_in, "work", "good.mp4")
    stage(bad)
    stage(good)
    outcome = read_outcome(storage, "unit", bad.video.digest)
    assert outcome is not None
    assert (outcome.reject, outcome.clips) == (reason, 0)
    assert outcome.detail
    assert (stand_in / "bad.mp4.log").read_text().split() == [behaviour] * attempts
    assert storage.exists(work_key("unit", good.video.digest, CLIPS))
    assert [path.name for path in stage._scratch.iterdir()] == ["lock"]


def test_what_is_done_is_not_done_again(stand_in: Path) -> None:
    """Bug caught: a resumed night that decodes everything anew, rejects included."""
    storage = open_storage(str(stand_in / "dataset"))
    for _ in range(2):
        stage = TrackFaces(CFG, "recipe", storage)
        for behaviour in ("work", "raise"):
            stage(replace(_planned(stand_in, behaviour, f"{behaviour}.mp4"), last_try=True))
    assert (stand_in / "work.mp4.log").read_text().split() == ["work"]
    assert (stand_in / "raise.mp4.log").read_text().split() == ["raise"] * 2


def test_a_fault_that_stays_with_a_process_costs_no_video(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a child that is asked again after a CUDA fault: thirty good videos were rejects, known for ever."""
    monkeypatch.chdir(stand_in)
    storage = open_storage(str(stand_in / "dataset"))
    stage = TrackFaces(CFG, "recipe", storage)
    for number, behaviour in enumerate(["work", "poison once", "work"]):
        planned = _planned(stand_in, behaviour, f"{number}.mp4")
        stage(planned)
        assert storage.exists(work_key("unit", planned.video.digest, CLIPS)), behaviour


@pytest.mark.parametrize(
    ("behaviour", "recipe", "error", "sentence"),
    [
        ("disk", "recipe", StorageError, "No space left"),
        ("crash", "starts once", ProjectError, "cannot start: RuntimeError: No CUDA GPUs"),
    ],
)
def test_what_is_the_machine_s_ends_the_ingest_and_blames_no_video(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, recipe: str, error: type[Exception], sentence: str
) -> None:
    """Catches a full scratch disk, or a GPU that is lost in mid-night, that turns all further videos into rejects."""
    monkeypatch.chdir(stand_in)
    storage = open_storage(str(stand_in / "dataset"))
    planned = _planned(stand_in, behaviour)
    with pytest.raises(error, match=sentence):
        TrackFaces(CFG, recipe, storage)(planned)
    assert read_outcome(storage, "unit", planned.video.digest) is None


def test_errors_of_our_own_are_rejects_once_a_later_video_shows_that_the_machine_is_well(stand_in: Path) -> None:
    """Catches a reject that is written on an ill machine, and one that is written never."""
    storage = open_storage(str(stand_in / "dataset"))
    stage = TrackFaces(CFG, "recipe", storage)
    bad = [_planned(stand_in, "raise", f"{number}.mp4") for number in range(3)]
    assert [stage(planned) for planned in bad] == [replace(planned, put_off=True) for planned in bad]
    stage(_planned(stand_in, "crash", "crash.mp4"))  # tells nothing of the machine
    assert [read_outcome(storage, "unit", planned.video.digest) for planned in bad] == [None] * 3
    stage(_planned(stand_in, "work", "good.mp4"))
    outcomes = [read_outcome(storage, "unit", planned.video.digest) for planned in bad]
    assert [outcome and outcome.reject for outcome in outcomes] == [RejectReason.INTERNAL] * 3
    later = replace(_planned(stand_in, "raise", "later.mp4"), last_try=True)
    assert stage(later) == later
    assert read_outcome(storage, "unit", later.video.digest).reject is RejectReason.INTERNAL


def test_errors_of_our_own_in_video_after_video_end_the_ingest_and_nothing_of_them_is_kept(stand_in: Path) -> None:
    """Catches an ill machine that turns a night's good videos into rejects, with exit code 0."""
    storage = open_storage(str(stand_in / "dataset"))
    stage = TrackFaces(CFG, "recipe", storage)
    bad = [_planned(stand_in, "raise", f"{number}.mp4") for number in range(FAULTS)]
    for planned in bad[:-1]:
        stage(planned)
    with pytest.raises(ProjectError, match=rf"{FAULTS} videos in a row on .*our own mistake.*run the same command"):
        stage(bad[-1])
    stage(_planned(stand_in, "work", "good.mp4"))  # a row that was on its way
    assert finished_videos(storage, "unit") == []


def test_a_parser_that_fails_puts_a_video_off_and_so_does_the_stage_before(stand_in: Path) -> None:
    """Catches an ill GPU of the parser, which throws finished clips away; clips asked of a video that was put off."""
    storage = open_storage(str(stand_in / "dataset"))
    track, parse = TrackFaces(CFG, "recipe", storage), ParseRegions(CFG, storage)
    no_regions = parse(track(_planned(stand_in, "work", "b.mp4+raise")))
    no_clips = parse(track(_planned(stand_in, "raise", "a.mp4")))
    assert (no_clips.put_off, no_regions.put_off) == (True, True)
    assert finished_videos(storage, "unit") == []
    last = replace(_planned(stand_in, "work", "b.mp4+raise"), last_try=True)
    finished = parse(track(last))
    assert (finished.put_off, finished.reject) == (False, "internal")
    assert (stand_in / "b.mp4.log").read_text().split() == ["work"]


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_staged_bytes_that_are_gone_are_fetched_again_by_the_next_ingest(stand_in, request, place) -> None:
    """Catches a missing object that ends the ingest, and the next one, and each after that: the plan is kept."""
    uri = f"s3://{request.getfixturevalue('bucket')}/dataset" if place == "s3" else str(stand_in / "dataset")
    storage = open_storage(uri)
    planned = PlannedVideo("unit", 1, SourceVideo("ab" * 32, f"staged:staged/{'ab' * 32}", "a.mp4", 4))
    TrackFaces(CFG, "recipe", storage)(planned)
    outcome = read_outcome(storage, "unit", planned.video.digest)
    assert (outcome.reject, outcome.clips) == (RejectReason.UNREACHABLE, 0)
    assert not Known({outcome.video: outcome.reject}).is_settled(outcome.video)


@pytest.mark.parametrize(
    ("recipe", "error", "words"),
    [
        ("no weights", WeightsError, "put them"),
        ("broken", ProjectError, "libfoo"),
        ("dies", ProjectError, "cannot start: .*SIGABRT"),
    ],
)
def test_a_worker_that_cannot_start_ends_the_ingest_and_blames_no_video(
    stand_in: Path, recipe: str, error: type[ProjectError], words: str
) -> None:
    """Bug caught: missing weights that turn a hundred thousand videos into rejects, known for ever."""
    storage = open_storage(str(stand_in / "dataset"))
    planned = _planned(stand_in, "work")
    with pytest.raises(error, match=words):
        TrackFaces(CFG, recipe, storage)(planned)
    assert read_outcome(storage, "unit", planned.video.digest) is None


def test_a_worker_that_is_killed_while_it_starts_is_started_again(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: one kill by the kernel, at the wrong moment, that ends the night."""
    monkeypatch.chdir(stand_in)
    storage = open_storage(str(stand_in / "dataset"))
    planned = _planned(stand_in, "work")
    TrackFaces(CFG, "dies once", storage)(planned)
    assert (stand_in / "died").exists()
    assert storage.exists(work_key("unit", planned.video.digest, CLIPS))


def test_a_file_name_that_is_no_text_reaches_the_worker_as_a_plain_path(stand_in: Path) -> None:
    """Bug caught: native libraries, which take UTF-8 alone, failing on a stray byte in a name."""
    path = os.fsdecode(os.fsencode(stand_in) + b"/stray-\xff.mp4")
    Path(path).write_text("work")
    storage = open_storage(str(stand_in / "dataset"))
    planned = PlannedVideo("unit", 1, SourceVideo("ab" * 32, locator(path), "stray-\\xff.mp4", 4))
    TrackFaces(CFG, "recipe", storage)(planned)
    assert storage.exists(work_key("unit", "ab" * 32, CLIPS))


def test_parsing_finishes_a_video_and_its_failures_are_rejects_too(stand_in: Path) -> None:
    """Bug caught: a video finished before its regions are there; a crash of the parser that stops the night."""
    storage = open_storage(str(stand_in / "dataset"))
    track, parse = TrackFaces(CFG, "recipe", storage), ParseRegions(CFG, storage)
    good, bad = _planned(stand_in, "work", "good.mp4+work"), _planned(stand_in, "work", "bad.mp4+crash")
    for planned in (good, bad):
        assert read_outcome(storage, "unit", planned.video.digest) is None
        finished = parse(track(planned))
        assert finished.reject == (None if planned is good else "crashed")
        assert parse(planned) == finished
    assert storage.exists(work_key("unit", good.video.digest, REGIONS))
    assert not storage.exists(work_key("unit", bad.video.digest, REGIONS))
    assert (stand_in / "parse.log").read_text().split() == ["work", "crash", "crash"]
    assert storage.exists(work_key("unit", bad.video.digest, OUTCOME))


def test_a_shard_is_written_when_the_last_video_of_its_unit_is_finished_and_once(builder) -> None:
    """Bug caught: a shard of half a unit; a shard for each video; a second writing that changes bytes."""
    stage = WriteShard(builder.storage)
    first = builder.finish("u", "a", [builder.clip("a")])
    stage(FinishedVideo("u", 2, first, "a.mp4", 1))
    assert read_done(builder.storage, "u") is None
    second = builder.finish("u", "b", [], RejectReason.NO_FACE)
    stage(FinishedVideo("u", 2, second, "b.mp4", 0, "no_face"))
    assert read_done(builder.storage, "u").clips == 1
    builder.storage.delete(manifest_key("u"))
    stage(FinishedVideo("u", 2, second, "b.mp4", 0, "no_face"))
    assert not builder.storage.exists(manifest_key("u"))
    assert builder.storage.exists(shard_key("u"))
