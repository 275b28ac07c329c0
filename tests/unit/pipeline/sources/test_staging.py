"""Staging from real servers: what is fetched, what is not, what is remembered, and what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ResponseStreamingError

from infra.errors import ConfigError, StorageError
from infra.partial import Deadline, claimed
from infra.storage import Storage, open_storage
from pipeline.config import FetchConfig
from pipeline.known import Known
from pipeline.rows import Cut, ListedVideo, RejectReason, SourceVideo
from pipeline.sources.content import cut_digest
from pipeline.sources.layouts import Layouts
from pipeline.sources.listing import open_source
from pipeline.sources.local import local_copy
from pipeline.sources.seen import Seen, Sight, forget
from pipeline.sources.staging import Stager, _group
from pipeline.sources.standin import standin_digest
from pipeline.sources.triage import triage
from tests.support.web_server import Page, WebServer, web_server

BODY = b"\x00\x00\x00\x20ftypisom" + bytes(5000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        yield running


class Night:
    """One night's staging into a dataset folder, with what earlier nights left there."""

    def __init__(self, folder: Path) -> None:
        self.storage: Storage = open_storage(str(folder / "d"))
        self.cfg = FetchConfig(
            cache=str(folder / "cache"), allow_private=True, backoff_s=0, requests_per_s=1000, burst=1000, parallel=2
        )

    def __call__(self, *listed: ListedVideo, known: Known | None = None, **more: Any) -> list[SourceVideo]:
        removed, retry = more.get("removed", ()), more.get("retry", ())
        seen, known = Seen(self.storage), known or Known()
        found = triage(listed, seen, known, removed, retry)
        stager = Stager(self.storage, self.cfg, seen, known, removed, retry)
        staged = list(stager.stage(found.due))
        self.removed = found.removed + sum(place.removed for place in staged)
        return sorted((video for place in staged for video in place.videos), key=lambda video: video.name)

    @property
    def staged(self) -> list[str]:
        return list(self.storage.list("staged/"))


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def _listed(server: WebServer, path: str, **more: Any) -> ListedVideo:
    return ListedVideo(server.url + path, path, fingerprint="address", **more)


def test_a_video_that_was_taken_out_before_its_bytes_could_be_had_stays_out(night: Night, server: WebServer) -> None:
    """Bug caught: a takedown that is undone by the server's return, and a name that is listed again each night."""
    video = _listed(server, "/secret.mp4")
    (failed,) = night(video)
    assert failed.reject == RejectReason.FETCH_FAILED
    for body in (None, BODY):
        server.pages = {"/secret.mp4": Page(body)} if body else {}
        assert (night(video, removed={failed.digest}), night.removed) == ([], 1)


def test_fetched_bytes_go_to_the_store_and_workers_read_them_there(
    night: Night, server: WebServer, tmp_path: Path
) -> None:
    """Bug caught: a path that only the driver's machine has; a secret of the address in the plan or the store."""
    server.pages = {"/a?token=secret": Page(BODY)}
    (video,) = night(_listed(server, "/a?token=secret", labels={"smile": 1}, split="val", identity="x"))
    assert (video.digest, video.bytes, video.path) == (DIGEST, len(BODY), f"staged:staged/{DIGEST}")
    assert (video.labels, video.split, video.identity) == ({"smile": 1}, "val", "x")
    with local_copy(video.path, night.storage, tmp_path) as path:
        assert Path(path).read_bytes() == BODY
    assert "secret" not in video.place
    for path in (tmp_path / "d").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_what_is_known_is_not_fetched_again_and_neither_is_a_twin_stored(night: Night, server: WebServer) -> None:
    """Bug caught: every night downloads everything; a known twin takes space in the store."""
    server.pages = {"/a": Page(BODY), "/twin": Page(BODY)}
    (video,) = night(_listed(server, "/a"))
    known = Known({video.digest: None})
    night.storage.delete(f"staged/{DIGEST}")
    assert night(_listed(server, "/a"), known=known) == []
    assert server.count("/a") == 1
    night(_listed(server, "/a"), _listed(server, "/twin"), known=known)
    assert (server.count("/twin"), night.staged) == (1, [])
    night(_listed(server, "/twin"), known=known)
    assert server.count("/twin") == 1


def test_a_killed_staging_fetches_only_what_is_missing(
    night: Night, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a staging of a week that begins anew after every kill."""
    monkeypatch.setattr("pipeline.sources.staging._REMEMBER_EVERY", 2)
    bodies = [BODY + bytes([number]) for number in range(6)]
    server.pages = {f"/{number}": Page(body) for number, body in enumerate(bodies)}
    listed = [_listed(server, f"/{number}") for number in range(6)]
    stager = Stager(night.storage, night.cfg, Seen(night.storage), Known())
    monkeypatch.setattr(Seen, "flush", _only(Seen.flush, times=2))  # killed: the last flush does not happen
    places = stager.stage(listed)
    for _ in range(5):
        next(places)
    places.close()
    monkeypatch.undo()
    assert len(night(*listed)) == 6
    asked = [server.count(f"/{number}") for number in range(6)]
    assert sum(asked) < 12
    assert asked.count(1) >= 4
    assert len(night.staged) == 6


def _only(method: Any, times: int) -> Any:
    left = [times]

    def limited(self: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            method(self)

    return limited


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (Page(status=404), RejectReason.FETCH_FAILED),
        (Page(before=[(503, {})] * 99), RejectReason.UNREACHABLE),
        (Page(bytes(1_000_001)), RejectReason.TOO_LARGE),
        (Page(status=302, headers={"Location": "ftp://h/x"}), RejectReason.FETCH_FAILED),
    ],
)
def test_a_failed_fetch_is_a_reject_that_is_known_afterwards(
    night: Night, server: WebServer, page: Page, reason: RejectReason
) -> None:
    """Bug caught: a dead link that ends the night or vanishes; one that is asked every night; one that never is."""
    night.cfg = night.cfg.model_copy(update={"max_mb": 1})
    server.pages = {"/a": page}
    (video,) = night(_listed(server, "/a"))
    assert (video.reject, video.digest) == (reason, standin_digest(server.url + "/a"))
    assert video.detail
    known, asked = Known({video.digest: reason}), server.count("/a")
    again = night(_listed(server, "/a"), known=known)
    assert bool(again) == (reason == RejectReason.UNREACHABLE)
    assert night(_listed(server, "/a"), known=known, retry={reason})
    assert server.count("/a") > asked
    server.pages = {"/a": Page(BODY)}
    (healed,) = night(_listed(server, "/a"), known=known, retry={reason})
    assert (healed.digest, healed.reject) == (DIGEST, None)


def test_a_new_fingerprint_is_asked_for_whatever_became_of_the_old_one(night: Night, server: WebServer) -> None:
    """Catches an address that is mended in the list, and given up for ever for what it was before."""
    (failed,) = night(replace(_listed(server, "/a"), fingerprint="1"))
    known = Known({failed.digest: RejectReason.FETCH_FAILED})
    assert night(replace(_listed(server, "/a"), fingerprint="1"), known=known) == []
    server.pages = {"/a": Page(BODY)}
    (healed,) = night(replace(_listed(server, "/a"), fingerprint="2"), known=known)
    assert (healed.digest, healed.reject) == (DIGEST, None)


def test_a_failure_never_hides_what_was_found_at_the_same_place(night: Night) -> None:
    """Catches a memory in which the name of a file decides whether a place was cured, or failed after it."""
    video = ListedVideo("https://h/v", "v", fingerprint="address")
    for number in range(20):  # files of the cache are read in the order of their names, which are digests
        for kind in (0, 1) if number % 2 else (1, 0):
            seen = Seen(night.storage)
            seen.add(video, Sight("a" * 64, number + 1)) if kind else seen.add_failure(video, f"{number:064x}")
            seen.flush()
        assert Seen(night.storage).get(video) is not None
        assert not Seen(night.storage).could_not_be_had(video)


def test_what_a_server_gave_before_it_failed_is_kept_for_the_next_night(night: Night, server: WebServer) -> None:
    """Bug caught: a film of gigabytes that begins anew each night, and never ends on a bad line."""
    night.cfg = night.cfg.model_copy(update={"attempts": 1})
    server.pages = {"/a": Page(BODY, break_after=1000, breaks=1)}
    (failed,) = night(_listed(server, "/a"))
    assert failed.reject == RejectReason.UNREACHABLE
    (video,) = night(_listed(server, "/a"))
    assert (video.digest, server.asked[-1][1].get("range")) == (DIGEST, "bytes=1000-")


def test_private_addresses_and_unknown_schemes_are_refused(night: Night, server: WebServer) -> None:
    """Bug caught: a manifest that makes the crawl read the company's own network."""
    night.cfg = night.cfg.model_copy(update={"allow_private": False})
    server.pages = {"/a": Page(BODY)}
    refused = night(_listed(server, "/a"), ListedVideo("unknown:/etc/passwd", "passwd"))
    assert [video.reject for video in refused] == [RejectReason.REFUSED] * 2
    assert server.asked == []


def test_what_was_taken_down_is_neither_kept_nor_remembered(night: Night, server: WebServer, tmp_path: Path) -> None:
    """Bug caught: a removed person's video back in the store, in a cache, or in the memory of what lies where."""
    server.pages = {"/a": Page(BODY)}
    (tmp_path / "a.mp4").write_bytes(BODY)
    os.utime(tmp_path / "a.mp4", (1e9, 1e9))
    listed = [_listed(server, "/a"), *open_source(str(tmp_path / "a.mp4"), Layouts()).list()]
    for _ in range(2):
        assert night(*listed, removed={DIGEST}) == []
        assert night.removed == 2
    assert night.staged == []
    assert list((tmp_path / "cache").iterdir()) == []
    assert list(night.storage.list("seen/")) == []
    assert len(night(*listed)) == 2
    forget(night.storage, {DIGEST})
    assert all(Seen(night.storage).get(video) is None for video in listed)


def test_local_files_stay_where_they_are_and_are_read_once(night: Night, tmp_path: Path) -> None:
    """Bug caught: every night hashes every file; a file that changed and is not noticed."""
    path = tmp_path / "a.mp4"
    path.write_bytes(BODY)
    os.utime(path, (1e9, 1e9))
    (video,) = night(*open_source(str(path), Layouts()).list())
    assert (video.path, video.digest, night.staged) == (str(path), DIGEST, [])
    known = Known({DIGEST: None})
    path.write_bytes(b"x" * len(BODY))
    os.utime(path, (1e9, 1e9))  # only reading it would tell
    assert night(*open_source(str(path), Layouts()).list(), known=known) == []
    os.utime(path, (1e9, 1e9 + 1))
    (changed,) = night(*open_source(str(path), Layouts()).list(), known=known)
    assert changed.digest == hashlib.sha256(b"x" * len(BODY)).hexdigest()


def test_a_file_that_cannot_be_read_is_a_reject_until_it_can(night: Night, tmp_path: Path) -> None:
    """Bug caught: a vanished file that stops the crawl, or stays a reject when it is back."""
    path = tmp_path / "a.mp4"
    path.symlink_to(tmp_path / "target.mp4")
    listed = ListedVideo(str(path), "a.mp4")
    (video,) = night(listed)
    assert (video.reject, video.digest) == (RejectReason.UNREADABLE, standin_digest(str(path)))
    (tmp_path / "target.mp4").write_bytes(BODY)
    (video,) = night(listed, known=Known({video.digest: RejectReason.UNREADABLE}))
    assert (video.reject, video.digest) == (None, DIGEST)


def test_a_file_that_workers_could_not_read_is_read_again(night: Night, tmp_path: Path) -> None:
    """Bug caught: a file mended under its old date, and known for ever by the bytes that it had."""
    path = tmp_path / "a.mp4"
    for body in (BODY, BODY[::-1]):
        path.write_bytes(body)
        os.utime(path, (1e9, 1e9))
        (video,) = night(*open_source(str(path), Layouts()).list(), known=Known({DIGEST: RejectReason.UNREADABLE}))
        assert video.digest == hashlib.sha256(body).hexdigest()


def test_the_cuts_of_one_file_are_read_once_and_are_videos_of_their_own(night: Night, server: WebServer) -> None:
    """Bug caught: a film fetched for each of its thirty cuts; two cuts taken for twins."""
    server.pages = {"/a": Page(BODY)}
    cuts = [_listed(server, "/a", cut=cut) for cut in (None, Cut(0, 1), Cut(1, 2))]
    whole, *parts = sorted(night(*cuts), key=lambda video: video.content)
    assert server.count("/a") == 1
    assert (whole.digest, whole.content) == (DIGEST, "")
    assert len({video.digest for video in parts}) == 2
    assert {video.content for video in parts} == {DIGEST}
    known = Known(dict.fromkeys([whole.digest, parts[0].digest]))
    assert [video.cut for video in night(*cuts, known=known) if video.digest == parts[1].digest] == [parts[1].cut]


def test_a_new_cut_beside_a_known_one_finds_its_bytes_in_the_store(night: Night, server: WebServer) -> None:
    """Bug caught: a film that is not kept because one of its cuts is known, and workers that find nothing there."""
    server.pages = {"/a": Page(BODY)}
    known = Known({cut_digest(DIGEST, Cut(0, 1)): None})
    night(*(_listed(server, "/a", cut=cut) for cut in (Cut(0, 1), Cut(1, 2))), known=known)
    assert night.staged == [f"staged/{DIGEST}"]


def test_downloads_run_beside_each_other_and_never_more_than_allowed(night: Night, server: WebServer) -> None:
    """Bug caught: one download at a time; or as many as there are addresses."""
    server.pages = {f"/{number}": Page(bytes(5000 + number), stall_s=0.02) for number in range(8)}
    night(*(_listed(server, path) for path in server.pages))
    assert server.most_together == 2


def test_no_more_is_begun_than_whoever_takes_the_results_can_follow(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a list of millions submitted as a whole, all of it in memory and fetched far ahead."""
    begun = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *call: Any, **more: Any) -> Any:
            begun.append(call)
            return super().submit(*call, **more)

    monkeypatch.setattr("pipeline.sources.staging.ThreadPoolExecutor", Counting)
    places = Stager(night.storage, night.cfg, Seen(night.storage), Known()).stage(
        ListedVideo(f"/absent/{number}.mp4", "v") for number in range(20)
    )
    next(places)
    assert len(begun) == 2 * night.cfg.parallel
    places.close()


def test_a_store_that_refuses_ends_the_staging_and_is_no_reject(night: Night, server: WebServer) -> None:
    """Bug caught: a full disk that makes rejects of good videos."""
    server.pages = {"/a": Page(BODY)}
    Path(night.storage.uri).mkdir()
    (Path(night.storage.uri) / "staged").write_bytes(b"a file where a folder is needed, as on a full disk")
    with pytest.raises(StorageError, match="cannot"):
        night(_listed(server, "/a"))


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/v.mp4?t=secret",
        "https://h:99999/v.mp4",
        "https://h:80a/v.mp4",
        "https://me:secret@h/\ud83d.mp4",
        "youtube:\ud83d",
        "s3://bucket/\ud83d.mp4",
        "s3:///v.mp4",
    ],
)
def test_an_address_that_makes_no_sense_is_one_reject(night: Night, tmp_path: Path, url: str) -> None:
    """Bug caught: a malformed line of a manifest that ends each night in a traceback; a secret shown for it."""
    (tmp_path / "list.jsonl").write_text(json.dumps({"url": url}))
    (video,) = night(*open_source(str(tmp_path / "list.jsonl"), Layouts()).list())
    assert video.reject in (RejectReason.FETCH_FAILED, RejectReason.REFUSED)
    assert "address" in str(video.detail)
    text = f"{video.name} {video.place} {video.detail}"
    assert text.encode()
    assert "secret" not in text


def test_a_mistake_in_one_fetch_costs_that_video_alone(
    night: Night, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug caught: an extractor's TypeError that ends the night; one that nobody can trace; a secret in its words."""
    words = "no title at https://h/a?token=secret, half an emoji: \ud83d"

    def extract(_: str, path: Path, *more: Any) -> None:
        path.write_bytes(b"half of it")
        raise TypeError(words)

    monkeypatch.setattr("pipeline.sources.staging.fetch_youtube", extract)
    server.pages = {"/a": Page(BODY)}
    (tmp_path / "cache").mkdir()
    bad = ListedVideo("youtube:dQw4w9WgXcQ", "v", fingerprint="id")
    good, failed = night(bad, _listed(server, "/a"))
    assert good.digest == DIGEST
    assert (failed.reject, failed.digest) == (RejectReason.INTERNAL, standin_digest(bad.place))
    assert str(failed.detail).startswith("TypeError: no title")
    assert str(failed.detail).encode()
    assert "in extract" in caplog.text
    assert "secret" not in f"{failed.detail} {caplog.text}"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_mistake_in_reading_one_file_costs_that_video_alone(night: Night) -> None:
    """Bug caught: a path that no system call takes, and a night that ends for it."""
    (failed,) = night(ListedVideo("/v/a\0.mp4", "v"))
    assert (failed.reject, failed.detail) == (RejectReason.INTERNAL, "ValueError: embedded null byte")


@pytest.mark.parametrize(
    "error", [ConfigError("x"), StorageError("x"), OSError("x"), MemoryError(), KeyboardInterrupt()]
)
def test_what_would_cost_every_video_ends_the_staging(
    night: Night, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Bug caught: a full disk, a missing yt-dlp or Ctrl-C that makes rejects of a whole night's good videos."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("pipeline.sources.staging.fetch_youtube", fail)
    with pytest.raises(type(error)):
        night(ListedVideo("youtube:dQw4w9WgXcQ", "v", fingerprint="id"))


def test_a_mistake_of_our_own_store_ends_the_staging(
    night: Night, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a store that fails in an unforeseen way, and a night of rejects for it."""

    def upload(*_: Any) -> None:
        raise TypeError("store")

    monkeypatch.setattr(night.storage, "upload", upload)
    server.pages = {"/a": Page(BODY)}
    with pytest.raises(TypeError, match="store"):
        night(_listed(server, "/a"))


def test_an_object_that_was_too_large_is_fetched_once_a_smaller_one_is_there(night: Night, bucket: str) -> None:
    """Catches the documented cure (scale it down) that changes nothing without a retry of all that is too large."""
    import boto3

    night.cfg = night.cfg.model_copy(update={"max_mb": 1})
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="videos/a.mp4", Body=bytes(1_000_001))
    (failed,) = night(*open_source(f"s3://{bucket}/videos", Layouts()).list())
    assert failed.reject == RejectReason.TOO_LARGE
    known = Known({failed.digest: RejectReason.TOO_LARGE})
    assert night(*open_source(f"s3://{bucket}/videos", Layouts()).list(), known=known) == []
    client.put_object(Bucket=bucket, Key="videos/a.mp4", Body=BODY)
    (healed,) = night(*open_source(f"s3://{bucket}/videos", Layouts()).list(), known=known)
    assert (healed.digest, healed.reject) == (DIGEST, None)


def test_objects_are_fetched_once_resumed_and_again_only_when_their_etag_changes(
    night: Night, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug caught: a bucket downloaded anew each night; the changed object missed; halves of two versions glued."""
    import boto3

    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key="videos/a.mp4", Body=BODY)
    (listed,) = open_source(f"s3://{bucket}/videos", Layouts()).list()
    (video,) = night(listed)
    assert (video.digest, video.place) == (DIGEST, f"s3://{bucket}/videos/a.mp4")
    client.delete_object(Bucket=bucket, Key="videos/a.mp4")
    night.storage.delete(f"staged/{DIGEST}")
    assert night(listed, known=Known({DIGEST: None})) == []  # not asked: it is not even there any more
    (gone,) = night(listed)
    assert gone.reject == RejectReason.FETCH_FAILED
    other = BODY[::-1]
    client.put_object(Bucket=bucket, Key="videos/a.mp4", Body=other)
    (stale,) = night(listed)
    assert (stale.reject, "changed" in str(stale.detail)) == (RejectReason.UNREACHABLE, True)
    (fresh,) = open_source(f"s3://{bucket}/videos", Layouts()).list()
    monkeypatch.setattr("infra.s3._CHUNK", 100)
    monkeypatch.setattr("infra.partial.Partial.write", _breaking_after(700))
    (video,) = night(fresh)
    assert (video.digest, video.bytes) == (hashlib.sha256(other).hexdigest(), len(other))


def _breaking_after(size: int) -> Any:
    from infra.partial import Partial

    write, left = Partial.write, [size]

    def limited(self: Partial, data: bytes) -> None:
        left[0] -= len(data)
        if -200 < left[0] <= 0:
            left[0] = -1000
            raise ResponseStreamingError(error="broken")
        write(self, data)

    return limited


def test_two_datasets_that_fetch_one_address_into_one_cache_do_not_mix_their_bytes(
    tmp_path: Path, server: WebServer
) -> None:
    """Catches bytes of two writers in one file, stored under a digest that is not theirs, and a file deleted in use."""
    body = os.urandom(400_000)
    server.pages = {"/a": Page(body, stall_s=0.001, etag=False)}
    nights = [Night(tmp_path / name) for name in ("one", "two", "three")]
    for night in nights:
        night.cfg = night.cfg.model_copy(update={"cache": str(tmp_path / "cache")})
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda night: night(_listed(server, "/a")), nights))
    for night, (video,) in zip(nights, found, strict=True):
        assert (video.reject, video.digest) == (None, hashlib.sha256(body).hexdigest())
        assert hashlib.sha256(night.storage.read(f"staged/{video.digest}")).hexdigest() == video.digest
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_video_that_another_ingest_fetches_for_too_long_is_tried_another_night(
    night: Night, server: WebServer
) -> None:
    """Catches a night that waits for another without end."""
    server.pages = {"/a": Page(BODY)}
    night.cfg = night.cfg.model_copy(update={"max_video_s": 0.6})
    cache = Path(night.cfg.cache)
    with claimed(cache / hashlib.sha256(_group(_listed(server, "/a")).encode()).hexdigest(), Deadline(1.0)):
        (video,) = night(_listed(server, "/a"))
    assert (video.reject, server.count("/a")) == (RejectReason.UNREACHABLE, 0)
    assert "another ingest" in str(video.detail)


def test_a_dataset_in_a_bucket_gives_workers_a_copy_and_takes_it_back(
    bucket: str, server: WebServer, tmp_path: Path
) -> None:
    """Bug caught: a worker on another machine without the bytes; a scratch disk that fills up."""
    server.pages = {"/a": Page(BODY)}
    night = Night(tmp_path)
    night.storage = open_storage(f"s3://{bucket}/d")
    (video,) = night(_listed(server, "/a"))
    with local_copy(video.path, pickle.loads(pickle.dumps(night.storage)), tmp_path) as path:
        assert Path(path).read_bytes() == BODY
    assert not Path(path).exists()


def test_the_memory_is_a_cache_that_may_be_deleted_damaged_or_merged(
    night: Night, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug caught: a night that fails for a damaged cache; a file for every night since the beginning."""
    for number in range(40):
        seen = Seen(night.storage)
        seen.add(ListedVideo(f"/v/{number}", "v", fingerprint="1"), Sight(f"{number:064x}", number))
        seen.flush()
    files = list(night.storage.list("seen/"))
    assert len(files) <= 17
    assert all(seen.get(ListedVideo(f"/v/{number}", "v", fingerprint="1")) for number in range(40))
    assert seen.get(ListedVideo("/v/1", "v", fingerprint="2")) is None
    assert seen.get(ListedVideo("/v/1", "v")) is None
    for key in files:
        night.storage.write(key, b"damaged")
    assert Seen(night.storage).get(ListedVideo("/v/1", "v", fingerprint="1")) is None
    assert "cannot be read" in caplog.text


def test_what_was_seen_under_an_older_spelling_is_read_once_more_and_never_treated_again(tmp_path: Path) -> None:
    """Bug caught: an upgrade after which a whole dataset's videos are ingested a second time."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "x.mp4").write_bytes(BODY)
    os.utime(tmp_path / "v" / "x.mp4", (1e9, 1e9))
    night, known = Night(tmp_path), Known({DIGEST: None})
    (now,) = open_source(f"{tmp_path}/a/../v", Layouts()).list()
    assert now.place == str(tmp_path / "v" / "x.mp4")
    night(replace(now, place=f"{tmp_path}/a/../v/x.mp4"))  # as older versions spelled it
    (read,) = night(now, known=known)
    assert known.is_settled(read.digest)
    assert night(now, known=known) == []
