"""Few-shot subsets keep every class, grow with their share, and depend on names and seed alone."""

from hypothesis import given
from hypothesis import strategies as st

from model.adapt.few_shot import few_shot_subset


def test_a_hundredth_keeps_every_class():
    """Catches a plain random subset: 1 % of a class of ten would be nobody."""
    targets = {f"v{i}": (float(i % 50 == 0),) for i in range(500)}
    kept = few_shot_subset(targets, "binary", 0.01, 0)
    assert len(kept) == 6
    assert sum(targets[name][0] for name in kept) == 1
    assert len(few_shot_subset(targets, "binary", 0.1, 0)) == 50


def test_every_label_of_many_is_kept():
    targets = {f"v{i}": (1.0, float(i % 3 == 0), float(i == 7)) for i in range(100)}
    kept = few_shot_subset(targets, "multilabel", 0.1, 0)
    assert len(kept) == 10
    assert "v7" in kept
    assert sum(targets[name][1] for name in kept) >= 4


def test_a_label_that_others_filled_beyond_its_share_takes_no_more():
    """Catches a negative number of missing subjects, which as the end of a slice keeps nearly all of them."""
    targets = {f"v{i}": (1.0, *(float(i == label) for label in range(5))) for i in range(20)}
    assert few_shot_subset(targets, "multilabel", 0.1, 0) == {f"v{label}" for label in range(5)}


@given(
    classes=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 5),
)
def test_a_smaller_share_is_a_part_of_a_larger_one(classes, shares, seed):
    targets = {f"v{i}": (float(c),) for i, c in enumerate(classes)}
    small, large = (few_shot_subset(targets, "multiclass", share, seed) for share in sorted(shares))
    assert small <= large
    assert {targets[name] for name in small} == set(targets.values())
    assert small == few_shot_subset(dict(reversed(targets.items())), "multiclass", min(shares), seed)
    assert few_shot_subset(targets, "multiclass", 1.0, seed) == set(targets)


def test_seeds_draw_different_subsets():
    targets = {f"v{i}": (float(i % 2),) for i in range(100)}
    assert few_shot_subset(targets, "binary", 0.1, 0) != few_shot_subset(targets, "binary", 0.1, 1)
