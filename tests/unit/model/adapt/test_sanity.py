"""The overfit-one-batch check passes where learning is possible and says so where data or labels are broken."""

import numpy as np
import pytest

from infra.errors import TrainingError
from model.adapt.features import FeatureTable
from model.adapt.sanity import mixed_rows, overfit_one_batch
from model.adapt.task import TaskSpec
from model.adapt.tasks import deepfake


def _table(features, targets):
    return FeatureTable(np.asarray(features, np.float32), np.asarray(targets, np.float32), ())


def test_random_labels_of_different_clips_are_learnt_by_heart():
    """Catches a check that asks for more than memory: it is about broken data, not about hard tasks."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (40, 1))
    check = overfit_one_batch(deepfake(), _table(rng.normal(0, 1e-4, (40, 48)) + 3, targets))
    assert check.remains < 1e-6
    assert "16 was learnt by heart" in check.sentence()


def test_clips_that_look_alike_with_different_labels_fail_with_one_sentence():
    """Catches black clips, or one picture read for every row: no epochs would help."""
    with pytest.raises(TrainingError, match="look alike to the encoder, so pixels, labels or weights are broken"):
        overfit_one_batch(deepfake(), _table(np.ones((16, 48)), [[0], [1]] * 8))


def test_values_that_are_not_finite_fail():
    task = TaskSpec("t", "regression", ("x",), lambda labels: None, "")
    with pytest.raises(TrainingError, match="100% of the labels"):
        overfit_one_batch(task, _table(np.full((4, 8), np.nan), [[0], [1], [2], [3]]))


def test_the_batch_mixes_all_targets():
    """Catches a batch of the first rows, which are one video and one class."""
    targets = np.array([[0]] * 30 + [[1]] * 3 + [[2]], np.float32)
    assert targets[mixed_rows(targets, 6), 0].tolist() == [0, 1, 2, 0, 1, 0]
