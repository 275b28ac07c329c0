"""The learning rate over clips seen."""

import math
from itertools import pairwise

import pytest

from model.train.schedule import learning_rate
from model.train_config import OptimConfig

RELEASED = OptimConfig()


def test_the_peak_and_the_end_scale_with_the_global_batch():
    """Catches rates that are not per 256 clips."""
    assert learning_rate(RELEASED.warmup_clips, 256, RELEASED) == pytest.approx(1.5e-4)
    assert learning_rate(RELEASED.warmup_clips, 64, RELEASED) == pytest.approx(1.5e-4 / 4)
    assert learning_rate(RELEASED.total_clips, 64, RELEASED) == pytest.approx(1e-5 / 4)


def test_warm_up_rises_linearly_and_begins_above_zero():
    """Catches a first step with rate 0, which trains nothing."""
    cfg = OptimConfig(warmup_clips=40, total_clips=100)
    rates = [learning_rate(seen, 4, cfg) for seen in range(0, 40, 4)]
    steps = [b - a for a, b in pairwise(rates)]
    assert rates[0] > 0
    assert max(steps) == pytest.approx(min(steps))
    assert rates[-1] == pytest.approx(1.5e-4 * 4 / 256)


def test_the_middle_of_the_cosine_is_the_middle_of_the_rates():
    cfg = OptimConfig(base_lr=3e-4, min_lr=1e-4, warmup_clips=0, total_clips=1000)
    assert learning_rate(500, 256, cfg) == pytest.approx(2e-4)
    assert all(math.isfinite(learning_rate(seen, 256, cfg)) for seen in (0, 999, 1000, 5000))
    assert learning_rate(5000, 256, cfg) == pytest.approx(1e-4)
