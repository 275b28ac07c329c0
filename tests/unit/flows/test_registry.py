"""The registry: numbered once, never changed, and always clear about who is live."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.plan import Idle, due_attempt
from flows.registry import Attempt, Encoder, Registry, learnt_from, live_version
from infra.errors import ConfigError, StorageError
from model.licences import non_commercial


def record(number: int, created: str = "", sha256: str = "0" * 64, **more: object) -> Encoder:
    fields = {"run": "runs/p", "dataset": "d", "dataset_version": number, "clips": 100 * number, "parent": None,
              "licences": ("videos: MIT",), **more}  # fmt: skip
    return Encoder(number=number, created=created, sha256=sha256, **fields)  # type: ignore[arg-type]


def filled(uri: str, folder: Path, count: int) -> Registry:
    registry = Registry(uri)
    for number in range(count):
        (folder / "w").write_bytes(bytes([number]))
        registry.register(folder / "w", record)
    return registry


@pytest.fixture(params=["folder", "bucket"])
def uri(request, tmp_path) -> str:
    if request.param == "folder":
        return str(tmp_path / "registry")
    return f"s3://{request.getfixturevalue('bucket')}/registry"


def test_who_is_live_follows_from_the_decisions_alone(uri, tmp_path):
    """Catches a refusal that unseats the live version, and a rollback that goes nowhere or to the same version."""
    registry = filled(uri, tmp_path, 3)
    assert registry.live() is None
    registry.decide("promote", 1, "the first")
    registry.decide("refuse", 2, "worse")
    assert registry.live() == registry.encoder(1)
    registry.decide("promote", 3, "better")
    registry.decide("promote", 3, "said twice")
    assert registry.live() == registry.encoder(3)
    back = registry.rollback("it failed in the field")
    assert (back.version, back.previous) == (1, 3)
    assert registry.live() == registry.encoder(1)
    with pytest.raises(ConfigError, match="no version was live before"):
        filled(f"{uri}-other", tmp_path, 1).rollback("")
    with pytest.raises(ConfigError, match="has no version 9"):
        registry.decide("promote", 9, "")


@pytest.mark.parametrize(
    ("story", "live"),
    [
        ("1 2 3 R", 2),
        ("1 2 3 R R", 1),
        ("1 2 3 R R R", None),
        ("1 2 R 2 R", 1),
        ("1 2 3 R 3 R", 2),
        ("1 2 3 R 4 R R", 1),
        ("1 2 1 R", 2),
        ("1 2 1 R R", None),
        ("1 2 2 R", 1),
    ],
)
def test_a_rollback_never_returns_to_what_was_rolled_back(tmp_path, story, live):
    """Catches a second rollback that makes the encoder live again which the first took out of service."""
    registry = filled(str(tmp_path / "r"), tmp_path, 4)
    *told, last = story.split()
    for step in told:
        registry.rollback("bad") if step == "R" else registry.decide("promote", int(step), "better")
    assert last == "R"
    if live is None:
        with pytest.raises(ConfigError, match="no version was live before"):
            registry.rollback("bad")
    else:
        left = live_version(registry.decisions())
        assert (registry.rollback("bad").previous, registry.live().number) == (left, live)


def test_the_same_weights_are_one_version_and_come_back_whole(uri, tmp_path):
    """Catches a second version after a flow that died between registering and deciding, and a damaged copy in use."""
    registry = filled(uri, tmp_path, 2)
    (tmp_path / "w").write_bytes(b"\0")
    assert registry.register(tmp_path / "w", record).number == 1
    assert len(registry.encoders()) == 2
    path = registry.weights(registry.encoder(1), tmp_path)
    assert path.read_bytes() == b"\0"
    path.write_bytes(b"torn")
    assert registry.weights(registry.encoder(1), tmp_path).read_bytes() == b"\0"
    registry.storage.write(registry.encoder(1).key, b"other")
    path.unlink()
    with pytest.raises(StorageError, match="other bytes than were registered"):
        registry.weights(registry.encoder(1), tmp_path)
    assert not path.exists()


def test_writers_at_once_lose_nothing(tmp_path):
    """Catches two decisions under one number: the numbers come from a listing that another writer has outrun."""
    registry = filled(str(tmp_path / "r"), tmp_path, 1)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: registry.decide("promote", 1, str(n)).number, range(24)))
    assert sorted(made) == list(range(1, 25))
    assert len(registry.decisions()) == 24


def test_a_damaged_record_is_one_sentence(tmp_path):
    registry = filled(str(tmp_path / "r"), tmp_path, 1)
    registry.storage.write("versions/000001.json", b'{"number": 1')
    with pytest.raises(StorageError, match="is damaged; restore it"):
        registry.live() or registry.encoders()


def within(seconds: float, work: Callable[[], object]) -> BaseException | None:
    """What ``work`` raises; it fails the test when it does not end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future.exception(timeout=seconds)


@pytest.mark.parametrize("lost", [2, 3])
def test_a_lost_record_is_one_sentence_and_its_number_is_not_given_again(uri, tmp_path, lost):
    """Catches a partial restore that makes the next writer try one number for ever, or give a decided one anew."""
    registry = filled(uri, tmp_path, 3)
    for number in (1, 2, 3):
        registry.decide("promote", number, "better")
    (tmp_path / "w").write_bytes(b"new")
    registry.storage.delete(f"versions/00000{lost}.json")
    error = within(20, lambda: registry.register(tmp_path / "w", record))
    assert isinstance(error, StorageError)
    assert f"versions/00000{lost}.json is missing; restore it" in str(error)
    again = filled(f"{uri}-again", tmp_path, 1)
    for _ in range(3):
        again.decide("promote", 1, "better")
    again.storage.delete("decisions/000002.json")
    assert "decisions/000002.json is missing" in str(within(20, lambda: again.decide("promote", 1, "")))


def test_weights_are_copied_once_however_many_writers_are_quicker(tmp_path):
    """Catches gigabytes that are sent again for every number that another writer took first."""
    registry = filled(str(tmp_path / "r"), tmp_path, 1)
    copies = []
    upload = registry.storage.upload
    registry.storage.upload = lambda local, key: (copies.append(key), upload(local, key))

    def made(number: int, created: str, sha256: str) -> Encoder:
        if number < 4:  # another is quicker
            other = record(number, sha256=f"{number:064}")
            registry.storage.put_if_absent(f"versions/{number:06d}.json", other.model_dump_json().encode())
        return record(number, created, sha256)

    (tmp_path / "w").write_bytes(b"new")
    assert registry.register(tmp_path / "w", made).number == 4
    assert len(copies) == 1


def test_what_learnt_from_a_version_includes_children():
    encoders = [record(1), record(2, parent=1), record(3), record(4, parent=2), record(5, dataset="other")]
    assert [e.number for e in learnt_from(encoders, "d", {1})] == [1, 2, 4]
    assert [e.number for e in learnt_from(encoders, "d", {5})] == []


@pytest.mark.parametrize(
    ("version", "clips", "known", "expected"),
    [
        (1, 99, [], "99 new clips"),
        (1, 100, [], Attempt(dataset="d", dataset_version=1, clips=100, parent=None)),
        (1, 900, [record(1)], "was trained on already"),
        (2, 199, [record(1)], "99 new clips since the last candidate; 100 are needed"),
        (2, 200, [record(1)], Attempt(dataset="d", dataset_version=2, clips=200, parent=7)),
        (3, 250, [record(1), record(2)], "50 new clips"),  # the last candidate counts, refused or not
        (3, 90, [record(2)], "0 new clips"),  # a takedown made it smaller
        (1, 100, [record(4, dataset="other")], Attempt(dataset="d", dataset_version=1, clips=100, parent=7)),
    ],
)
def test_a_candidate_is_due_when_enough_clips_are_new(version, clips, known, expected):
    wanted = Attempt(dataset="d", dataset_version=version, clips=clips, parent=7 if known else None)
    due = due_attempt(wanted, known, [], 100)
    if isinstance(expected, str):
        assert isinstance(due, Idle)
        assert expected in due.why
    else:
        assert due == expected


def test_what_was_abandoned_is_remembered_and_not_begun_again(uri, tmp_path):
    """Catches a candidate that nobody wants any more and every wake-up begins again, and a reason that is lost."""
    registry = filled(uri, tmp_path, 1)
    with pytest.raises(ConfigError, match="no candidate is in the making"):
        registry.abandon("too small")
    attempt = Attempt(dataset="d", dataset_version=2, clips=200, parent=1)
    for number, why in enumerate(("too small", "again"), 1):
        registry.begin(attempt)
        assert registry.abandon(why).number == number
        assert registry.attempt() is None
    assert [row.why for row in registry.abandoned()] == ["too small", "again"]
    idle = due_attempt(attempt, [record(1)], registry.abandoned(), 100)
    assert isinstance(idle, Idle)
    assert "was abandoned: too small" in idle.why
    for other in ({"dataset_version": 3}, {"parent": None}):
        wanted = attempt.model_copy(update=other)
        assert due_attempt(wanted, [record(1)], registry.abandoned(), 100) == wanted


def test_an_unstated_licence_is_no_commercial_one():
    """Catches an allow-list that matches inside a word, or lets pass what nobody has stated."""
    closed = ["centerface: MIT; trained on WIDER FACE (non-commercial research)", "videos: unstated"]
    assert non_commercial(("a: MIT", "b: mit", *closed), ("MIT",)) == closed
