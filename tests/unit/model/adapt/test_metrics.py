"""Accuracy and AUC against values worked out by hand, and an interval that knows what belongs together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DatasetError
from model.adapt.metrics import auc, measure


def _measure(scores, labels, groups=None, resamples=300):
    groups = groups or [str(i) for i in range(len(labels))]
    return measure(np.array(scores), np.array(labels), groups, resamples=resamples, seed=0)


def test_known_values_with_a_tie():
    """3 real × 2 fake pairs: 4 in the right order, one tie counts half, one wrong: 4.5 / 6."""
    result = _measure([0.1, 0.4, 0.6, 0.4, 0.9], [0, 0, 0, 1, 1])
    assert result.auc == pytest.approx(4.5 / 6)
    assert result.accuracy == pytest.approx(3 / 5)


def test_a_perfect_a_reversed_and_a_useless_detector():
    labels = [0, 1] * 6
    assert _measure(labels, labels).auc == 1.0
    assert _measure([1 - x for x in labels], labels).auc == 0.0
    assert _measure([0.5] * 12, labels).auc == 0.5


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=30))
def test_auc_is_what_counting_pairs_gives(samples):
    scores, labels = np.array([s for s, _ in samples]), np.array([int(y) for _, y in samples])
    if labels.min() == labels.max():
        return
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_scores_below_float32_resolution_keep_their_order():
    """Catches a cast to float32 that turns confident scores into ties."""
    assert _measure([1 - 1e-12, 1 - 1e-13], [0, 1]).auc == 1.0


def test_copies_of_a_group_do_not_narrow_the_interval():
    """Catches a bootstrap over clips: ten near copies of each video are no more evidence than one."""
    rng = np.random.default_rng(1)
    labels = np.array([0, 1] * 8)
    scores = np.clip(labels * 0.15 + rng.random(16), 0, 1)
    groups = [str(i // 2) for i in range(16)]
    once = _measure(scores, labels, groups)
    often = _measure(np.repeat(scores, 10), np.repeat(labels, 10), [g for g in groups for _ in range(10)])
    assert (often.auc_low, often.auc_high) == pytest.approx((once.auc_low, once.auc_high), abs=0.02)
    assert once.auc_low < once.auc < once.auc_high
    assert (often.samples, often.groups) == (160, 8)


def test_one_group_has_no_interval():
    result = _measure([0.2, 0.7], [0, 1], ["a", "a"])
    assert (result.auc_low, result.auc_high) == (None, None)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DatasetError, match="both classes"):
        _measure([0.2, 0.7], [1, 1])
    with pytest.raises(DatasetError, match="finite"):
        _measure([0.2, float("nan")], [0, 1])
    with pytest.raises(DatasetError, match="do not fit"):
        _measure([0.2], [0, 1], ["a", "b"])
