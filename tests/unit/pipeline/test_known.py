from __future__ import annotations

import pytest

from infra.errors import CorruptShardError
from pipeline.dataset.format import videos_key
from pipeline.dataset.versions import DatasetVersion
from pipeline.dataset.work import write_outcome
from pipeline.dataset.writer import write_unit
from pipeline.known import COLUMNS, LEDGER_KEY, Known, read_known
from pipeline.plan import plan_units
from pipeline.rows import RejectReason, SourceVideo, VideoOutcome
from pipeline.sources.seen import read_cached
from pipeline.sources.standin import standin_digest
from tests.unit.pipeline.conftest import DatasetBuilder


def test_the_latest_outcome_of_each_video_is_what_counts(builder: DatasetBuilder) -> None:
    """Bug caught: a video that was retried with success taken for a reject for ever, or the other way round."""
    clip = builder.clip("b")
    one, two = builder.unit("one", {"a": [], "b": []}), builder.unit("two", {"b": [clip]})
    reader = builder.publish(one, two)
    known = read_known(builder.storage, reader.version, refresh=False)
    assert known.rejects == {builder.digest("a"): RejectReason.NO_FACE, builder.digest("b"): None}
    assert read_known(builder.storage, None, refresh=True) == Known()


def test_bytes_that_were_had_in_the_end_end_the_reject_that_stood_in_for_them(builder: DatasetBuilder) -> None:
    """Catches a failure that is known for ever, also from the cache; and a later one that is not."""
    standin = standin_digest("/source/v.mp4")
    outcome = VideoOutcome(standin, "v.mp4", 0, reject=RejectReason.TOO_LARGE, place="/source/v.mp4")

    def failed(unit: str) -> DatasetVersion:
        write_outcome(builder.storage, unit, outcome)
        return builder.publish(write_unit(builder.storage, unit, [standin], builder.scratch)).version

    video = SourceVideo(standin, "", "v.mp4", 0, place="/source/v.mp4", reject=RejectReason.TOO_LARGE)
    first = plan_units([video], Known(), "r", 10, version=1)[0].id
    failed("one")
    builder.publish(*(builder.unit(f"unit-{number}", {f"v{number}": []}) for number in range(17)))
    version = builder.publish(builder.unit("two", {"v": [builder.clip("v")]})).version
    for _ in range(2):
        known = read_known(builder.storage, version, refresh=True)
        assert (known.rejects[builder.digest("v")], known.is_settled(standin), len(known.rejects)) == (None, False, 19)
        assert plan_units([video], known, "r", 10, version=4)[0].id != first  # not the older unit once more
    assert read_cached(builder.storage, LEDGER_KEY, COLUMNS).num_rows == 20  # and no more than is needed
    known = read_known(builder.storage, failed("three"), refresh=True)
    assert (known.rejects[standin], known.is_settled(standin)) == (RejectReason.TOO_LARGE, True)
    assert plan_units([video], known, "r", 10, version=5) == ()


@pytest.mark.parametrize(
    ("reason", "retry", "settled"),
    [
        (None, set(RejectReason), True),
        (RejectReason.NO_FACE, set(), True),
        (RejectReason.NO_FACE, {RejectReason.NO_FACE}, False),
        (RejectReason.NO_FACE, {RejectReason.TIMEOUT}, True),
        (RejectReason.UNREADABLE, set(), False),
        (RejectReason.UNREACHABLE, set(), False),
        (RejectReason.FETCH_FAILED, set(), True),
    ],
)
def test_only_passing_and_named_rejects_need_work_again(
    reason: RejectReason | None, retry: set[RejectReason], settled: bool
) -> None:
    """Bug caught: a good video treated again by a retry; a passing failure that stays."""
    assert Known({"d": reason}).is_settled("d", retry) is settled
    assert not Known({"d": reason}).is_settled("other", retry)


def test_many_nights_are_read_from_one_object_and_the_cache_is_never_the_truth(builder: DatasetBuilder) -> None:
    """Bug caught: one read for every night before; a unit of a takedown still known from the cache; a damaged cache."""
    entries = [builder.unit(f"unit-{number}", {f"v{number}": []}) for number in range(20)]
    version = builder.publish(*entries).version
    first = read_known(builder.storage, version, refresh=False)
    assert not builder.storage.exists(LEDGER_KEY)
    assert read_known(builder.storage, version, refresh=True) == first
    assert builder.storage.exists(LEDGER_KEY)
    for entry in entries[:-1]:
        builder.storage.delete(videos_key(entry.unit))
    assert read_known(builder.storage, version, refresh=False) == first
    fewer = version.model_copy(update={"units": version.units[1:]})
    assert builder.digest("v0") not in read_known(builder.storage, fewer, refresh=False).rejects
    builder.storage.write(LEDGER_KEY, b"damaged")
    with pytest.raises(Exception, match="cannot"):
        read_known(builder.storage, version, refresh=False)


def test_a_ledger_that_is_not_the_listed_one_is_an_error(builder: DatasetBuilder) -> None:
    """Bug caught: a plan made of a damaged ledger, which would treat the whole dataset anew."""
    entry = builder.unit("one", {"a": []})
    version = builder.publish(entry).version
    builder.storage.write(videos_key("one"), b"damaged")
    with pytest.raises(CorruptShardError):
        read_known(builder.storage, version, refresh=True)
