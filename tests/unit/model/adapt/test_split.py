"""Training and test never share what their rule keeps apart."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, DatasetError
from model.adapt.samples import ClipRow, Window, choose_windows, windows_of
from model.adapt.split import Split, check_no_leak, split_windows

RULES = {"test_fraction": 0.3, "val_fraction": 0.2, "min_groups": 4, "gap_frames": 32, "seed": 0}


def clip(video: str, start: int = 0, frames: int = 64, **changes) -> ClipRow:
    row = ClipRow(
        unit="u", row=0, key=f"{video}-t0000-f{start:07d}", video=video, name=f"{video}.mp4", track=0,
        start_frame=start, frames=frames, split="train", identity=None,
    )  # fmt: skip
    return replace(row, **changes)


def windows(videos: dict[str, int], **changes) -> list[Window]:
    """``videos``: name → number of consecutive clips of 64 frames."""
    clips = [clip(v, 64 * i, **changes) for v, count in videos.items() for i in range(count)]
    return [w for c in clips for w in windows_of(c, 2)]


def test_with_enough_videos_whole_videos_are_held_out():
    split = split_windows(windows({f"v{i}": 2 for i in range(10)}), kind="auto", **RULES)
    assert split.kind == "video"
    videos = {side: {w.clip.video for w in split.sides[side]} for side in split.sides}
    assert len(videos["test"]) == 3
    assert not videos["test"] & (videos["train"] | videos["val"])
    assert sum(len(s) for s in split.sides.values()) == 40, "no window may be lost when videos are held out"


def test_as_many_videos_as_are_asked_for_are_enough_for_validation():
    """Catches a limit that is off by one: of six videos two are tested, and the four that are left are enough."""
    assert split_windows(windows({f"v{i}": 2 for i in range(6)}), kind="auto", **RULES).val_kind == "video"


def test_with_few_videos_time_is_split_with_a_gap():
    split = split_windows(windows({"a": 8, "b": 8}), kind="auto", **RULES)
    assert split.kind == split.val_kind == "time"
    for video in "ab":
        end = {s: max(w.end_frame for w in split.sides[s] if w.clip.video == video) for s in ("train", "val")}
        start = {s: min(w.start_frame for w in split.sides[s] if w.clip.video == video) for s in ("val", "test")}
        assert start["val"] - end["train"] >= 32
        assert start["test"] - end["val"] >= 32


def test_one_person_in_several_videos_is_on_one_side():
    """Catches a split by video digest where the dataset knows people."""
    many = [w for i in range(12) for w in windows({f"v{i}": 2}, identity=f"p{i // 2}")]
    split = split_windows(many, kind="video", **RULES)
    assert split.kind == "video"
    people = {side: {w.clip.identity for w in split.sides[side]} for side in split.sides}
    assert not people["test"] & (people["train"] | people["val"])


def test_clips_that_hang_together_through_a_third_are_on_one_side():
    """Catches two known people in one video, and a fake made of two people, whose other videos lie elsewhere."""
    together = [clip(f"v{i}", identity=f"p{i}{face}", track=face) for i in range(8) for face in (0, 1)]
    together += [clip(f"own{i}", identity=f"p{i}1") for i in range(8)]
    swapped = [clip(f"fake{i}", identity=f"q{i}", donor=f"q{(i + 1) % 3}") for i in range(3)]
    chosen = choose_windows([*together, *swapped], 1, 0)
    assert len({w.group for w in chosen}) == 8 + 1
    for seed in range(8):
        split = split_windows(chosen, kind="auto", **RULES | {"seed": seed})
        assert split.kind == split.val_kind == "video"
        check_no_leak(split)


def test_videos_that_hang_together_through_fakes_are_each_cut_in_their_own_time():
    """Catches one cut for swapped people with videos of other lengths: the short ones would never be tested."""
    seen = {"r4": ("p4", None, 8), "f45": ("p4", "p5", 8), "r5": ("p5", None, 4), "f54": ("p5", "p4", 4)}
    clips = [
        clip(video, 64 * i, identity=who, donor=donor)
        for video, (who, donor, count) in seen.items()
        for i in range(count)
    ]
    split = split_windows(choose_windows(clips, 2, 0), kind="time", **RULES)
    for side in ("train", "test"):
        assert {w.clip.video for w in split.sides[side]} == set(seen)


def test_the_face_of_a_fake_leaks_as_a_person_does():
    fake, real = (
        choose_windows([clip("a", identity="p", donor="q")], 1, 0),
        choose_windows([clip("b", identity="q")], 1, 0),
    )
    with pytest.raises(DatasetError, match=r"leak: person q is on the test and the training side; mend"):
        check_no_leak(Split("video", "video", {"train": tuple(fake), "val": (), "test": tuple(real)}, 32))


def test_a_fake_and_the_video_it_was_made_of_are_cut_at_the_same_frame():
    """Catches cutting each file on its own: the fake's late frames would be trained on as the real's early ones."""
    pair = windows({"real": 8}, identity="p", target=(0.0,)) + windows({"fake": 6}, identity="p", target=(1.0,))
    split = split_windows(pair, kind="auto", **RULES)
    first_test = min(w.start_frame for w in split.sides["test"])
    assert all(w.end_frame <= first_test - 32 for s in ("train", "val") for w in split.sides[s])


def test_the_manifests_own_split_is_taken_where_it_has_two_sides():
    own = windows({"a": 4}) + windows({"b": 3}, split="val") + windows({"c": 3}, split="test")
    split = split_windows(own, kind="auto", **RULES)
    assert split.kind == "manifest"
    assert {s: {w.clip.video for w in split.sides[s]} for s in split.sides} == {
        "train": {"a"}, "val": {"b"}, "test": {"c"},
    }  # fmt: skip
    two = split_windows(windows({"a": 4}) + windows({"b": 3}, split="val"), kind="manifest", **RULES)
    assert {w.clip.video for w in two.sides["test"]} == {"b"}
    assert {w.clip.video for w in two.sides["val"]} == {"a"}, "validation then comes from training, by time"


@settings(deadline=None, max_examples=60)
@given(
    counts=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=12),
    seed=st.integers(0, 3),
    gap=st.sampled_from([0, 16, 32, 64]),
    kind=st.sampled_from(["auto", "video", "time"]),
)
def test_no_split_leaks_and_the_order_of_the_windows_plays_no_part(counts, seed, gap, kind):
    rules = {**RULES, "seed": seed, "gap_frames": gap}
    some = windows(counts)
    try:
        split = split_windows(some, kind=kind, **rules)
    except ConfigError:
        return  # too little of it: said in one sentence, see below
    check_no_leak(split)
    assert split == split_windows(some[::-1], kind=kind, **rules)
    placed = [w for side in split.sides.values() for w in side]
    assert len(placed) == len(set(placed)), "a window is on one side only"
    assert set(placed) <= set(some)
    if gap:
        spans = [(s, w) for s in split.sides for w in split.sides[s]]
        for side, one in spans:
            for other_side, other in spans:
                if side != other_side and one.clip.video == other.clip.video:
                    assert one.end_frame <= other.start_frame or other.end_frame <= one.start_frame


def test_leaks_are_found():
    """Catches a leak check that never raises: each rule is broken once by hand."""
    a, b, c = windows({"a": 1, "b": 1, "c": 1})[::2]
    near = windows_of(clip("a", 40), 1)[0]
    good = Split("video", "video", {"train": (a,), "val": (b,), "test": (c,)}, 32)
    check_no_leak(good)
    with pytest.raises(DatasetError, match="leak: video a"):
        check_no_leak(replace(good, sides={"train": (a,), "val": (b,), "test": (near,)}))
    with pytest.raises(DatasetError, match="leak: test window"):
        check_no_leak(replace(good, kind="time", sides={"train": (a,), "val": (b,), "test": (near,)}))
    with pytest.raises(DatasetError, match="leak: validation window"):
        check_no_leak(replace(good, val_kind="time", sides={"train": (a,), "val": (near,), "test": (c,)}))
    same = [replace(w, clip=replace(w.clip, identity="p")) for w in (a, c)]
    with pytest.raises(DatasetError, match="leak: person p"):
        check_no_leak(replace(good, sides={"train": (same[0],), "val": (b,), "test": (same[1],)}))


def test_too_little_material_is_one_sentence_with_the_cure():
    with pytest.raises(ConfigError, match=r"leaves no window for .*gap_frames"):
        split_windows(windows({"a": 1}), kind="auto", **RULES)
    with pytest.raises(ConfigError, match="at least two videos"):
        split_windows(windows({"a": 9}), kind="video", **RULES)
    with pytest.raises(ConfigError, match="all of them are 'train'"):
        split_windows(windows({"a": 9}), kind="manifest", **RULES)


def test_windows_start_at_region_maps_and_stay_inside_their_clip():
    for frames in (1, 15, 16, 20, 31, 32, 40, 64, 100):
        for count in (1, 2, 5):
            found = windows_of(clip("a", 128, frames), count)
            assert 1 <= len(found) <= count
            for window in found:
                assert len(window.indices) == 16
                assert window.indices[0] % 4 == 0
                assert min(window.indices) >= 0
                assert max(window.indices) < frames
                assert 128 <= window.start_frame < window.end_frame <= 128 + frames
    assert [w.indices[0] for w in windows_of(clip("a"), 2)] == [0, 32]


def test_an_even_selection_reaches_all_clips():
    clips = [clip(f"v{i}") for i in range(10)]
    assert len(choose_windows(clips, 4, 0)) == 40
    assert {w.clip.video for w in choose_windows(clips, 4, 10)} == {c.video for c in clips}
