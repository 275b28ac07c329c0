from __future__ import annotations

import io
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import CorruptShardError, DatasetError
from infra.storage import LocalStorage, Storage, open_storage
from pipeline.config import FetchConfig
from pipeline.dataset import vacuum
from pipeline.dataset.compact import compact_dataset
from pipeline.dataset.format import version_key, videos_key, work_key
from pipeline.dataset.reader import open_dataset
from pipeline.dataset.remove import remove_videos
from pipeline.dataset.show import video_rows
from pipeline.dataset.takedown import REMOVED_KEY, REMOVED_PREFIX, read_removed, write_removed
from pipeline.dataset.verify import verify_dataset
from pipeline.dataset.versions import DatasetVersion, list_versions, load_version
from pipeline.dataset.work import write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.known import Known
from pipeline.plan import Plan, Unit, read_plan, write_plan
from pipeline.rows import ListedVideo, RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.seen import Seen, forget
from pipeline.sources.staging import Stager
from pipeline.sources.standin import origin_digest, standin_digest
from pipeline.sources.triage import triage
from tests.support.killing import contents, copy_store, killed_at, remove
from tests.unit.pipeline.dataset.test_compact import clips_of

MB = 1_000_000


def planned(digest: str, name: str, path: str | None = None) -> SourceVideo:
    return SourceVideo(digest, path or f"/source/{name}", name, 1000, place=f"/source/{name}")


def failed_night(builder, unit: str, place: str, name: str, shown: str | None = None) -> str:
    """Publish what a night leaves that could not have the bytes of a place; return what stands in for their digest."""
    outcome = VideoOutcome(
        standin_digest(place), name, 0, reject=RejectReason.UNREACHABLE, detail="away", place=shown or place
    )
    write_outcome(builder.storage, unit, outcome)
    builder.publish(write_unit(builder.storage, unit, [outcome.video], builder.scratch))
    return outcome.video


@pytest.fixture
def house(builder) -> Storage:
    """A dataset with everything that may hold a video called secret.

    Three of four versions, a unit that no version lists, a plan in progress with work and staged bytes, and the table
    of what listings have shown.
    """
    clip, store, secret = builder.clip, builder.storage, builder.digest("secret")
    builder.publish(builder.unit("one", {"a": [clip("a")], "b": []}))
    two = builder.unit("two", {"secret": [clip("secret"), clip("secret", start=64, frames=20)], "c": [clip("c")]})
    builder.publish(two, builder.unit("alone", {"d": [clip("d")]}))
    compact_dataset(store, builder.scratch, shard_bytes=2)  # units without clips stay, nothing is merged
    compact_dataset(store, builder.scratch, shard_bytes=MB)
    builder.publish(builder.unit("four", {"e": [clip("e")]}))
    builder.unit("orphan", {"secret": [clip("secret")]})
    table = pa.table({"fingerprint": ["f1", "f2", "f3"], "digest": [secret, builder.digest("a"), secret],
                      "place": ["/source/secret.mp4", "/source/a.mp4", "/elsewhere/twin of secret.mp4"]})  # fmt: skip
    for key, rows in (("seen/1.parquet", table), ("seen/2.parquet", table.slice(1, 1))):
        buffer = io.BytesIO()
        pq.write_table(rows, buffer)
        store.write(key, buffer.getvalue())
    units = (
        Unit(
            id="p1",
            videos=(planned(secret, "secret.mp4", "staged:staged/s"), planned("1" * 64, "f.mp4", "staged:staged/g")),
        ),
        Unit(id="p2", videos=(planned("2" * 64, "g.mp4", "staged:staged/g"),)),
    )
    write_plan(store, Plan(version=5, recipe_digest="ab" * 32, units=units))
    for key in ("staged/s", "staged/g", work_key("p2", "2" * 64, "outcome.json"), "units/p2.done"):
        store.write(key, b"bytes")
    builder.finish("p1", "secret", [clip("secret")])
    return store


def traces(storage: Storage, *words: str) -> list[str]:
    """Objects that hold one of the words: in their key, their bytes, or a cell of their table."""
    found = []
    for key in storage.list():
        data = storage.read(key)
        text = key.encode() + data
        if key.endswith(".parquet"):
            text += json.dumps(pq.read_table(io.BytesIO(data)).to_pylist(), default=bytes.hex).encode()
        if any(word.encode() in text for word in words) and not key.startswith(REMOVED_PREFIX):
            found.append(key)
    return found


def test_nothing_of_the_video_stays_but_its_digest(house: Storage, builder) -> None:
    """Bug caught: a face, name, place or key that survives in a shard, table, version, plan, staged file or list."""
    secret = builder.digest("secret")
    words = ("secret", secret[:16])
    assert len(traces(house, *words)) > 12
    before = clips_of(open_dataset(house.uri))
    done = remove_videos(house, ["secret.mp4"], builder.scratch)
    assert traces(house, *words) == []
    written = {secret, origin_digest("/source/secret.mp4", "secret.mp4")}
    assert {key: house.read(key) for key in house.list("removed/")} == {f"removed/{digest}": b"" for digest in written}
    assert read_removed(house) == written
    newest = open_dataset(house.uri)
    assert (done.version, done.new, done.names, done.clips) == (5, True, ("secret.mp4",), 2)
    assert verify_dataset(newest) == []
    assert newest.version.why == "remove"
    assert clips_of(newest) == {key: clip for key, clip in before.items() if not key.startswith(secret[:16])}
    assert sum(newest.videos(entry.unit).num_rows for entry in newest.version.units) == 5
    assert not [path for path in builder.scratch.iterdir() if path.name not in ("clips.tar", "regions.tar")]


def test_versions_that_held_it_name_their_successor_and_others_stay_as_they_were(house: Storage, builder) -> None:
    """Bug caught: an old version that still gives the face, fails without saying why, or is lost without need."""
    first = clips_of(open_dataset(house.uri, 1))
    assert remove_videos(house, ["secret.mp4"], builder.scratch).buried == (2, 3, 4)
    for number in (2, 3, 4):
        with pytest.raises(DatasetError, match=f"version {number} of .* was removed; version 5 takes its place"):
            open_dataset(house.uri, number)
    assert clips_of(open_dataset(house.uri, 1)) == first
    assert verify_dataset(open_dataset(house.uri, 1)) == []
    assert list_versions(house) == [1, 2, 3, 4, 5]
    remove_videos(house, ["e.mp4"], builder.scratch)  # the tombstones' successor is removed in its turn
    with pytest.raises(DatasetError, match="version 6 takes its place"):
        open_dataset(house.uri, 2)


def test_the_plan_in_progress_goes_on_without_its_unit(house: Storage, builder) -> None:
    """Bug caught: an interrupted ingest that brings the video back, or loses all that others have finished."""
    remove_videos(house, ["secret.mp4"], builder.scratch)
    plan = read_plan(house)
    assert plan is not None
    assert [unit.id for unit in plan.units] == ["p2"]
    assert plan.version == 6
    assert house.exists("staged/g")
    assert house.exists("units/p2.done")
    assert list(house.list("work/")) == [work_key("p2", "2" * 64, "outcome.json")]


def test_another_cut_of_its_file_leaves_the_plan(builder) -> None:
    """Bug caught: an interrupted ingest that brings the face back, out of a cut that no version has yet."""
    content = builder.digest("the file")
    builder.finish("one", "cut1", [builder.clip("cut1")], content=content)
    builder.publish(write_unit(builder.storage, "one", [builder.digest("cut1")], builder.scratch))
    cut = replace(planned("1" * 64, "cut2.mp4"), content=content)
    units = (Unit(id="p1", videos=(cut,)), Unit(id="p2", videos=(planned("2" * 64, "g.mp4"),)))
    write_plan(builder.storage, Plan(version=2, recipe_digest="ab" * 32, units=units))
    remove_videos(builder.storage, ["cut1.mp4"], builder.scratch)
    plan = read_plan(builder.storage)
    assert plan is not None
    assert [unit.id for unit in plan.units] == ["p2"]


def test_a_plan_that_was_published_is_dropped(builder) -> None:
    """Bug caught: an ingest killed before its sweep, whose plan is carried out once more after the takedown."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")], "b": [builder.clip("b")]}))
    units = (Unit(id="one", videos=(planned(builder.digest("b"), "b.mp4"),)),)
    write_plan(builder.storage, Plan(version=1, recipe_digest="ab" * 32, units=units))
    remove_videos(builder.storage, ["a.mp4"], builder.scratch)
    assert read_plan(builder.storage) is None


@pytest.mark.parametrize(
    "call",
    [
        "secret.mp4",
        "/source/secret.mp4",
        "/x/../source/./secret.mp4",
        "file:///source/secret.mp4",
        "digest",
        "prefix",
        "file",
    ],
)
def test_a_video_is_named_by_its_name_its_path_its_digest_or_its_file(builder, tmp_path: Path, call: str) -> None:
    """Bug caught: a takedown that finds nothing, although the person gave all that they have."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")], "secret": [builder.clip("secret")]}))
    digest = builder.digest("secret")
    (tmp_path / "upload.bin").write_bytes(b"secret")  # its sha256 is the builder's digest
    text = {"digest": digest, "prefix": digest[:8], "file": str(tmp_path / "upload.bin")}.get(call, call)
    assert remove_videos(builder.storage, [text], builder.scratch).names == ("secret.mp4",)
    assert traces(builder.storage, "secret", digest[:16]) == []
    if call in ("digest", "prefix"):  # what is left of it is known by
        again = remove_videos(builder.storage, [text], builder.scratch)
        assert (again.new, again.clips, again.buried) == (False, 0, ())


def test_a_place_that_was_stored_with_dots_is_named_by_its_plain_path(builder) -> None:
    """Bug caught: a video that was ingested as ``../videos`` before places had one spelling, and cannot be named."""
    builder.finish("u", "one", [builder.clip("one")])
    key = work_key("u", builder.digest("one"), "outcome.json")
    changed = json.loads(builder.storage.read(key)) | {"place": "/home/me/../../source/deep/one.mp4"}
    builder.storage.write(key, json.dumps(changed).encode())
    builder.publish(write_unit(builder.storage, "u", [builder.digest("one")], builder.scratch))
    assert remove_videos(builder.storage, ["/source/deep/one.mp4"], builder.scratch).names == ("one.mp4",)


def test_an_address_is_known_without_its_password_and_never_taken_for_another(builder) -> None:
    """Bug caught: the address that was ingested finds nothing; ``?v=b`` takes ``?v=a`` down (values are not kept)."""
    places = {"one": "https://cdn.example/one.mp4", "two": "https://site.example/watch?v=…"}
    for name, place in places.items():
        builder.finish("u", name, [builder.clip(name)])
        key = work_key("u", builder.digest(name), "outcome.json")
        changed = json.loads(builder.storage.read(key)) | {"place": place}
        builder.storage.write(key, json.dumps(changed).encode())
    builder.publish(write_unit(builder.storage, "u", [builder.digest(name) for name in places], builder.scratch))
    with pytest.raises(DatasetError, match="holds no video"):
        remove_videos(builder.storage, ["https://site.example/watch?v=b"], builder.scratch)
    done = remove_videos(builder.storage, ["https://user:secret@cdn.example/one.mp4"], builder.scratch)
    assert done.names == ("one.mp4",)


@pytest.mark.parametrize("name", ["secret.mp4", "deep/secret.mp4"])  # of the same folder, listed from elsewhere
@pytest.mark.parametrize("call", ["name", "/source/secret.mp4", "digest", "standin"])
def test_a_night_without_its_bytes_makes_it_no_other_video(builder, name: str, call: str) -> None:
    """Catches a name refused as unclear, a name and place that stay in the newest version, or a video that stays."""
    standin = failed_night(builder, "one", "/source/secret.mp4", name)
    failed_night(builder, "two", "/source/b.mp4", "b.mp4")
    builder.publish(builder.unit("three", {"secret": [builder.clip("secret")], "a": [builder.clip("a")]}))
    digest = builder.digest("secret")
    done = remove_videos(
        builder.storage, [{"name": name, "digest": digest, "standin": standin}.get(call, call)], builder.scratch
    )
    assert (done.clips, traces(builder.storage, "secret", digest[:16])) == (1, [])
    assert [row["name"] for row in video_rows(open_dataset(builder.storage.uri))] == ["a.mp4", "b.mp4"]
    assert read_removed(builder.storage) >= {digest, origin_digest("/source/secret.mp4", "")}


def test_a_night_without_its_bytes_leaves_the_plan_with_it(builder) -> None:
    """Catches an interrupted ingest that publishes the name of somebody who was taken out."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")], "b": [builder.clip("b")]}))
    place = "/source/a.mp4"
    failed = SourceVideo(standin_digest(place), "", "a.mp4", 0, place=place, reject=RejectReason.UNREADABLE)
    write_plan(builder.storage, Plan(version=2, recipe_digest="ab" * 32, units=(Unit(id="p1", videos=(failed,)),)))
    remove_videos(builder.storage, ["a.mp4"], builder.scratch)
    assert read_plan(builder.storage) is None


def test_an_address_whose_values_are_not_stored_is_called_by_all_of_it(builder) -> None:
    """Catches a dead link that nobody can take out, or one that takes its neighbours with it."""
    address, shown = "https://h/watch?v={}", "https://h/watch?v=…"
    for number in (1, 2):
        failed_night(builder, f"u{number}", address.format(number), f"person {number}", shown)
    remove_videos(builder.storage, [address.format(1)], builder.scratch)
    assert [row["name"] for row in video_rows(open_dataset(builder.storage.uri))] == ["person 2"]
    assert read_removed(builder.storage) == {standin_digest(address.format(1))}


def test_a_place_whose_bytes_are_gone_says_nothing_of_whom_it_showed_and_other_bytes_are_welcome(
    builder, tmp_path: Path
) -> None:
    """Catches a removed person named in the next version since the list still has the address, or a place banned."""
    place, digest = tmp_path / "secret.mp4", builder.digest("secret")
    builder.finish("one", "secret", [builder.clip("secret")])
    key = work_key("one", digest, "outcome.json")
    builder.storage.write(key, json.dumps(json.loads(builder.storage.read(key)) | {"place": str(place)}).encode())
    builder.publish(write_unit(builder.storage, "one", [digest], builder.scratch))
    remove_videos(builder.storage, [digest], builder.scratch)

    def staged() -> tuple[list[str], int]:
        seen, removed = Seen(builder.storage), read_removed(builder.storage)
        found = triage([ListedVideo(str(place), "secret.mp4", labels={"of": "her"})], seen, Known(), removed)
        done = list(Stager(builder.storage, FetchConfig(), seen, Known(), removed).stage(found.due))
        return [video.digest for one in done for video in one.videos], found.removed + sum(one.removed for one in done)

    assert staged() == ([], 1)
    place.write_bytes(b"secret")
    assert staged() == ([], 1)
    place.write_bytes(b"another person")
    assert staged() == ([builder.digest("another person")], 0)


def test_two_takedowns_at_once_both_stay_written_down(builder) -> None:
    """Catches a list that is read, changed and written: in a bucket the slower takedown brings the other's back."""
    one, other, older = "a" * 64, "b" * 64, "c" * 64
    builder.storage.write(REMOVED_KEY, json.dumps({"schema": 2, "removed": [older]}).encode())

    class Busy(LocalStorage):
        def write(self, key: str, data: bytes) -> None:
            write_removed(builder.storage, read_removed(builder.storage) | {other})
            super().write(key, data)

    write_removed(Busy(builder.storage.uri), read_removed(builder.storage) | {one})
    assert read_removed(builder.storage) == {one, other, older}
    builder.storage.write("removed/notes.txt", b"")
    with pytest.raises(DatasetError, match=r"removed/notes\.txt is no digest"):
        read_removed(builder.storage)


def test_a_large_dataset_is_read_through_twice_and_by_many_at_once(builder) -> None:
    """Catches requests one after another, and more of them for every version: hours, in a bucket of a million units."""

    class Counting(LocalStorage):
        def __init__(self, uri: str) -> None:
            super().__init__(uri)
            self.reads: Counter[str] = Counter()
            self.together = threading.Barrier(4)

        def read(self, key: str) -> bytes:
            self.reads[f"{key.partition('/')[0]} {Path(key).suffix}"] += 1
            if key.startswith("videos/") and self.reads["videos .parquet"] <= 4:
                self.together.wait(10)  # breaks when they come one by one
            return super().read(key)

    for version in range(3):
        builder.publish(*(builder.unit(f"{version}-{n}", {f"v{version}-{n}": []}) for n in range(4)))
    storage = Counting(builder.storage.uri)
    remove_videos(storage, ["v0-0.mp4"], builder.scratch)
    assert storage.reads["videos .parquet"] <= 2 * 12 + 1
    assert storage.reads["versions .parquet"] <= 2 * 3


def test_unclear_and_unknown_videos_are_one_sentence_and_nothing_is_changed(builder) -> None:
    """Bug caught: the wrong person removed; a digest written down for ever by a slip of the keyboard."""
    clip = builder.clip
    builder.publish(builder.unit("one", {"a": [clip("a")], "b": [clip("b")]}))
    twice = builder.digest("x"), builder.digest("y")
    for name in ("x", "y"):  # one name, two sources
        builder.finish("two", name, [])
        key = work_key("two", builder.digest(name), "outcome.json")
        builder.storage.write(key, builder.storage.read(key).replace(f"{name}.mp4".encode(), b"same.mp4"))
    builder.publish(write_unit(builder.storage, "two", twice, builder.scratch))
    before = contents(builder.storage)
    for video, words in {"absent.mp4": "holds no video", builder.digest("a")[:7]: "at least 8 digits",
                         "same.mp4": "fits 2 videos", "0" * 64: "holds no video"}.items():  # fmt: skip
        with pytest.raises(DatasetError, match=words):
            remove_videos(builder.storage, ["a.mp4", video], builder.scratch)
    assert contents(builder.storage) == before
    with pytest.raises(DatasetError, match="no dataset version"):
        remove_videos(open_storage(str(builder.folder / "empty")), ["a.mp4"], builder.scratch)


def test_all_cuts_of_one_file_go_together_and_its_bytes_stay_out(builder) -> None:
    """Bug caught: the same face left in another cut, or let in again under another one's digest."""
    content = builder.digest("the file")
    for name in ("cut1", "cut2"):
        builder.finish("one", name, [builder.clip(name)], content=content)
    builder.finish("one", "other", [builder.clip("other")])
    digests = [builder.digest(name) for name in ("cut1", "cut2", "other")]
    builder.publish(write_unit(builder.storage, "one", digests, builder.scratch))
    done = remove_videos(builder.storage, ["cut1.mp4"], builder.scratch)
    assert done.clips == 2
    assert traces(builder.storage, "cut1", "cut2", content[:16], digests[0][:16], digests[1][:16]) == []
    assert read_removed(builder.storage) == {digests[0], content, origin_digest("/source/cut1.mp4", "cut1.mp4")}
    assert verify_dataset(open_dataset(builder.storage.uri)) == []


def test_the_last_video_of_a_dataset_can_go(builder) -> None:
    """Bug caught: a takedown that fails on an empty shard, or an empty version that cannot be opened."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")]}))
    remove_videos(builder.storage, ["a.mp4"], builder.scratch)
    reader = open_dataset(builder.storage.uri)
    assert (reader.version.version, len(reader.version.units), verify_dataset(reader)) == (2, 0, [])
    removed = [f"removed/{digest}" for digest in sorted(read_removed(builder.storage))]
    kept = [".lock", *removed, "versions/000001.json", "versions/000002.json"]
    assert [key for key in builder.storage.list() if not key.endswith(".parquet")] == kept
    assert len(list(builder.storage.list())) == len(kept) + 2  # and both versions' tables of units, which name nobody


def test_what_another_writer_publishes_meanwhile_stays_whole(builder) -> None:
    """Bug caught: in a bucket, which has no lock, a night that ends during a takedown loses its shards and units."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")], "b": [builder.clip("b")]}))

    class Busy(LocalStorage):
        def write(self, key: str, data: bytes) -> None:
            super().write(key, data)
            if key == version_key(1):  # it is a tombstone now
                builder.publish(builder.unit("two", {"c": [builder.clip("c")]}))

    made = remove_videos(Busy(builder.storage.uri), ["a.mp4"], builder.scratch)
    newest = open_dataset(builder.storage.uri)
    assert (made.buried, newest.version.version, verify_dataset(newest)) == ((1,), made.version + 1, [])


def test_what_another_writer_publishes_during_the_sweep_stays_whole(builder, monkeypatch) -> None:
    """Bug caught: the table of a version deleted that came after the sweep's look at the versions."""
    builder.publish(builder.unit("one", {"a": [builder.clip("a")], "b": [builder.clip("b")]}))
    remove_videos(builder.storage, ["a.mp4"], builder.scratch)

    def meanwhile(storage: Storage, number: int) -> DatasetVersion:
        if number == 2:
            builder.publish(builder.unit("two", {"c": [builder.clip("c")]}))
        return load_version(storage, number)

    monkeypatch.setattr(vacuum, "load_version", meanwhile)
    remove_videos(builder.storage, [builder.digest("a")], builder.scratch)  # once more: it publishes nothing
    version = open_dataset(builder.storage.uri).version  # the shards of its unit a plan would have kept
    assert (version.version, "two" in {entry.unit for entry in version.units}) == (3, True)


def test_a_damaged_list_of_removals_is_an_error(builder) -> None:
    """Bug caught: a damaged removed.json read as "nothing was removed", which brings everyone back."""
    assert read_removed(builder.storage) == frozenset()
    for data in (b"", b"[]", b'{"removed": ["abc"]}', b'{"removed": "a"}', b"{}"):
        builder.storage.write(REMOVED_KEY, data)
        with pytest.raises(DatasetError, match=r"removed\.json is damaged"):
            read_removed(builder.storage)


def test_a_lost_table_of_videos_stops_a_takedown(house: Storage, builder) -> None:
    """Bug caught: a unit passed over because nobody can tell who is in it."""
    house.delete(videos_key("four"))
    with pytest.raises(CorruptShardError, match=r"four\.parquet is absent"):
        remove_videos(house, ["secret.mp4"], builder.scratch)


def test_listings_forget_every_place_of_it_and_nothing_else(house: Storage, builder) -> None:
    """Bug caught: the twin's path kept, or other videos read anew every night."""
    untouched = house.read("seen/2.parquet")
    forget(house, {builder.digest("secret")})
    assert pq.read_table(io.BytesIO(house.read("seen/1.parquet")))["fingerprint"].to_pylist() == ["f2"]
    assert house.read("seen/2.parquet") == untouched


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path: Path) -> str:
    return request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_before_any_write_the_same_command_finishes_it(house: Storage, builder, place: str, tmp_path) -> None:
    """Bug caught: a half-done takedown that cannot be found again, leaves a trace, or breaks the newest version."""
    words = ("secret", builder.digest("secret")[:16])
    wanted = copy_store(house, place)
    remove_videos(wanted, ["secret.mp4"], builder.scratch)
    expected = contents(wanted)
    written, writes, killed = read_removed(wanted), 0, True
    while killed:
        writes += 6 if place.startswith("s3:") else 1  # a bucket over HTTP takes long, and the steps are the same
        store = copy_store(house, place)
        killed = killed_at(remove, place, writes, tmp_path / "scratch", videos=["secret.mp4"])
        if not killed:
            break
        problems = verify_dataset(open_dataset(place))
        assert [text for text in problems if "a takedown is unfinished" not in text] == [], f"after write {writes}"
        if writes > 1:
            assert read_removed(store) & written
        remove_videos(store, ["secret.mp4"], builder.scratch)
        assert traces(store, *words) == [], f"after write {writes}"
        assert contents(store) == expected, f"after write {writes}"
        assert not isinstance(store, LocalStorage) or not list(Path(place).rglob(".tmp-*"))
    assert writes > 20
