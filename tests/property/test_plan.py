"""Laws of planning, over generated listings."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.storage import open_storage
from pipeline.known import Known
from pipeline.plan import OUTPUT_SHARE, Plan, plan_units, read_plan, write_plan
from pipeline.rows import RejectReason, SourceVideo

SHARD = 1000


@st.composite
def listings(draw: st.DrawFn) -> list[SourceVideo]:
    """Videos with twins: few digests, many names."""
    rows = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 99), st.integers(0, 3000)), max_size=40))
    sizes: dict[int, int] = {}
    return [
        SourceVideo(
            hashlib.sha256(str(content).encode()).hexdigest(),
            f"/v/{name}.mp4",
            f"{name}.mp4",
            sizes.setdefault(content, size),
        )
        for content, name, size in rows
    ]


@given(listings(), st.sets(st.integers(0, 20)))
@settings(deadline=None)
def test_every_new_video_is_planned_exactly_once_and_no_known_one(
    videos: list[SourceVideo], known_ids: set[int]
) -> None:
    """Bug caught: twins treated twice, a video lost at a unit's border, known work done again."""
    known = {hashlib.sha256(str(content).encode()).hexdigest() for content in known_ids}
    units = plan_units(videos, Known(dict.fromkeys(known)), "recipe", SHARD, version=1)
    planned = [video.digest for unit in units for video in unit.videos]
    assert sorted(planned) == sorted({video.digest for video in videos} - known)
    assert len({unit.id for unit in units}) == len(units)


@given(listings(), st.randoms())
@settings(deadline=None)
def test_the_plan_does_not_depend_on_the_order_of_the_listing(videos: list[SourceVideo], random) -> None:
    """Bug caught: shards that differ between two machines that list a folder differently."""
    shuffled = list(videos)
    random.shuffle(shuffled)
    assert plan_units(videos, Known(), "recipe", SHARD, version=1) == plan_units(
        shuffled, Known(), "recipe", SHARD, version=1
    )


@given(listings())
@settings(deadline=None)
def test_units_are_full_but_not_over_full_and_sorted(videos: list[SourceVideo]) -> None:
    """Bug caught: a shard of its own for every video, a shard without bound, keys that do not sort through shards."""
    units = plan_units(videos, Known(), "recipe", SHARD, version=1)
    sizes = [sum(video.bytes for video in unit.videos) * OUTPUT_SHARE for unit in units]
    assert all(size <= SHARD or len(unit.videos) == 1 for size, unit in zip(sizes, units, strict=True))
    firsts = [unit.videos[0].bytes * OUTPUT_SHARE for unit in units[1:]]
    assert all(size + following > SHARD for size, following in zip(sizes, firsts, strict=False))
    digests = [video.digest for unit in units for video in unit.videos]
    assert digests == sorted(digests)


@given(listings())
@settings(deadline=None)
def test_a_units_name_is_a_function_of_its_content_and_recipe(videos: list[SourceVideo]) -> None:
    """Bug caught: a retry under another name; two recipes overwriting each other's shards."""
    one, other = (plan_units(videos, Known(), recipe, SHARD, version=1) for recipe in ("one", "other"))
    assert [unit.videos for unit in one] == [unit.videos for unit in other]
    assert not {unit.id for unit in one} & {unit.id for unit in other}


REASONS = st.sampled_from([None, *RejectReason])


@given(listings(), st.dictionaries(st.integers(0, 20), REASONS), st.sets(st.sampled_from(list(RejectReason))))
@settings(deadline=None)
def test_a_retry_treats_the_named_rejects_again_in_units_that_no_version_has(
    videos: list[SourceVideo], outcomes: dict[int, RejectReason | None], retry: set[RejectReason]
) -> None:
    """Bug caught: a retry that takes a good video again, misses one, or overwrites the unit that rejected it."""
    known = Known({hashlib.sha256(str(content).encode()).hexdigest(): reason for content, reason in outcomes.items()})
    passing = {RejectReason.UNREADABLE, RejectReason.UNREACHABLE}
    first, second = (plan_units(videos, known, "r", SHARD, version=version, retry=retry) for version in (2, 3))
    planned = {video.digest for unit in first for video in unit.videos}
    new = {video.digest for video in videos} - known.rejects.keys()
    again = {video.digest for video in videos if known.rejects.get(video.digest) in passing | retry}
    assert planned == new | again
    for one, other in zip(first, second, strict=True):
        assert (one.id != other.id) == any(video.digest in again for video in one.videos)


def test_bytes_that_could_not_be_had_once_more_are_nothing_new_and_another_reason_is() -> None:
    """Bug caught: a dead link that makes a version every night; a link that died and is asked for ever."""
    digest = "ab" * 32
    known = Known({digest: RejectReason.UNREACHABLE})
    for reason, units in ((RejectReason.UNREACHABLE, 0), (RejectReason.FETCH_FAILED, 1)):
        video = SourceVideo(digest, "", "v", 0, reject=reason, detail="because")
        assert len(plan_units([video], known, "r", 10, version=2, retry=set(RejectReason))) == units


def test_a_plan_comes_back_as_it_was_written_down(tmp_path) -> None:
    """Bug caught: a label or a strange name lost in plan.json, so that a resumed night differs from a whole one."""
    labels = {"text": "1", "whole": 1, "half": 0.5, "flag": True}
    video = SourceVideo("ab" * 32, "file:/v/%FF.mp4", 'new\nline "é".mp4', 7, labels=labels, split="val", identity="x")
    plan = Plan(version=3, recipe_digest="r", units=plan_units([video], Known(), "r", 10, version=3))
    storage = open_storage(str(tmp_path))
    assert read_plan(storage) is None
    write_plan(storage, plan)
    back = read_plan(storage)
    assert back == plan
    assert [type(value) for value in back.units[0].videos[0].labels.values()] == [str, int, float, bool]
