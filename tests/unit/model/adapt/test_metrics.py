"""Figures of every kind of task against values worked out by hand, and intervals that know what belongs together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DatasetError
from model.adapt.metrics import auc, calibration_error, figures, measure, reliability_bins
from model.adapt.task import TaskSpec
from model.adapt.tasks import deepfake, emotion, sentiment7


def _measure(scores, labels, groups=None, resamples=300):
    groups = groups or [str(i) for i in range(len(labels))]
    scores, labels = np.array(scores)[:, None], np.array(labels, np.float32)[:, None]
    return measure(deepfake(), scores, labels, groups, resamples=resamples, seed=0)


def _auc(scores, labels):
    return _measure(scores, labels).measures["auc"].value


def test_known_values_with_a_tie():
    """3 real × 2 fake pairs: 4 in the right order, one tie counts half, one wrong: 4.5 / 6."""
    result = _measure([0.1, 0.4, 0.6, 0.4, 0.9], [0, 0, 0, 1, 1])
    assert result.measures["auc"].value == pytest.approx(4.5 / 6)
    assert result.measures["accuracy"].value == pytest.approx(3 / 5)
    assert result.measures["balanced_accuracy"].value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_perfect_a_reversed_and_a_useless_detector():
    labels = [0, 1] * 6
    assert _auc(labels, labels) == 1.0
    assert _auc([1 - x for x in labels], labels) == 0.0
    assert _auc([0.5] * 12, labels) == 0.5


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), st.booleans()), min_size=2, max_size=30))
def test_auc_is_what_counting_pairs_gives(samples):
    scores, labels = np.array([s for s, _ in samples]), np.array([int(y) for _, y in samples])
    if labels.min() == labels.max():
        return
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs))


def test_scores_below_float32_resolution_keep_their_order():
    """Catches a cast to float32 that turns confident scores into ties."""
    assert _auc([1 - 1e-12, 1 - 1e-13], [0, 1]) == 1.0


def test_copies_of_a_group_do_not_narrow_the_interval():
    """Catches a bootstrap over clips: ten near copies of each video are no more evidence than one."""
    rng = np.random.default_rng(1)
    labels = np.array([0, 1] * 8)
    scores = np.clip(labels * 0.15 + rng.random(16), 0, 1)
    groups = [str(i // 2) for i in range(16)]
    once = _measure(scores, labels, groups)
    often = _measure(np.repeat(scores, 10), np.repeat(labels, 10), [g for g in groups for _ in range(10)])
    one, ten = once.measures["auc"], often.measures["auc"]
    assert ten[1:] == pytest.approx(one[1:], abs=0.02)
    assert one.low < one.value < one.high
    assert (often.samples, often.groups) == (160, 8)


def test_one_group_has_no_interval():
    result = _measure([0.2, 0.7], [0, 1], ["a", "a"])
    assert result.measures["auc"][1:] == (None, None)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DatasetError, match="all 2 test labels of task deepfake are alike"):
        _measure([0.2, 0.7], [1, 1])
    with pytest.raises(DatasetError, match="finite"):
        _measure([0.2, float("nan")], [0, 1])
    with pytest.raises(DatasetError, match="do not fit"):
        _measure([0.2], [0, 1], ["a", "b"])


def test_multilabel_figures_are_micro_as_in_the_paper_and_macro_beside_it():
    """Catches a mean over labels called accuracy or AUC of the table: rare labels would count as common ones do."""
    targets = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], np.float32)
    scores = np.array([[0.9, 0.2], [0.6, 0.1], [0.7, 0.3], [0.2, 0.25]])
    task = TaskSpec("t", "multilabel", ("a", "b"), lambda labels: None, "")
    found = figures(task, scores, targets)
    assert found["accuracy"] == pytest.approx(6 / 8)
    flat, truth = scores.ravel(), targets.ravel()
    pairs = [(a > b) + (a == b) / 2 for a in flat[truth == 1] for b in flat[truth == 0]]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    assert found["macro_auc"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    per = measure(task, scores, targets, list("wxyz"), resamples=0, seed=0).per_output
    assert (per["a"]["auc"], per["b"]["auc"], per["b"]["accuracy"]) == pytest.approx((3 / 4, 2 / 3, 3 / 4))


def test_emotion_accuracy_is_the_mean_of_six_and_f1_is_weighted_by_class():
    targets = np.zeros((4, 6), np.float32)
    targets[:2, 0] = 1
    scores = np.full((4, 6), 0.1)
    scores[0, 0] = 0.9
    found = figures(emotion(), scores, targets)
    assert found["accuracy"] == pytest.approx((3 / 4 + 5) / 6)
    one = 0.5 * (2 * 1 / (1 + 2)) + 0.5 * (2 * 2 / (3 + 2))
    assert found["weighted_f1"] == pytest.approx((one + 5) / 6)


def test_seven_classes_have_a_distance():
    """Catches a mean absolute error of class numbers that are not sentiments, or of probabilities."""
    scores = np.eye(7)[[0, 3, 6]]
    found = figures(sentiment7(), scores, np.array([[0.0], [4.0], [3.0]]))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["mae"] == pytest.approx((0 + 1 + 3) / 3)


def test_regression_has_errors_and_a_correlation_and_no_calibration():
    task = TaskSpec("t", "regression", ("x",), lambda labels: None, "")
    result = measure(
        task, np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [5.0]]), list("abc"), resamples=9, seed=0
    )
    assert result.measures["mae"].value == pytest.approx(2 / 3)
    assert result.measures["rmse"].value == pytest.approx((2 / 3) ** 0.5)
    assert result.measures["correlation"].value == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 5])[0, 1])
    assert result.reliability == ()


def test_calibration_compares_what_was_said_with_what_came():
    """Catches a calibration error of accuracy at 0.5, which a confident and wrong detector passes."""
    scores, targets = np.array([[0.95]] * 10 + [[0.15]] * 10), np.array([[1.0]] * 5 + [[0.0]] * 5 + [[0.0]] * 10)
    bins = reliability_bins(deepfake(), scores, targets)
    assert [b.samples for b in bins if b.samples] == [10, 10]
    assert calibration_error(bins) == pytest.approx((0.45 + 0.15) / 2)


def test_a_certain_prediction_counts_in_the_last_bin():
    """Catches probabilities of exactly 1, which a saturated sigmoid gives, left out of the calibration."""
    bins = reliability_bins(deepfake(), np.array([[1.0], [0.0]]), np.array([[0.0], [0.0]]))
    assert [bins[0].samples, bins[-1].samples] == [1, 1]
    assert calibration_error(bins) == pytest.approx(1 / 2)


def test_the_reliability_of_classes_is_how_often_the_chosen_one_came():
    """Catches a network of many classes that seems well calibrated whatever it says."""
    scores = np.full((4, 7), 0.05)
    scores[:, 2] = 0.7
    (found,) = (b for b in reliability_bins(sentiment7(), scores, np.array([[2.0], [2.0], [2.0], [6.0]])) if b.samples)
    assert found == pytest.approx((4, 0.7, 3 / 4))
