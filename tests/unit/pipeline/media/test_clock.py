import time

import pytest

from pipeline.media.clock import StageClock


def test_stages_add_up_and_waiting_for_items_counts():
    clock = StageClock()

    def slow():
        for item in range(2):
            time.sleep(0.02)
            yield item

    assert list(clock.over("decode", slow())) == [0, 1]
    assert clock.seconds["decode"] >= 0.04


def test_a_stage_that_raises_still_counts():
    clock = StageClock()

    def fail():
        with clock("crop"):
            time.sleep(0.01)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert clock.seconds["crop"] >= 0.01


def test_the_consumers_time_is_not_the_stages():
    clock = StageClock()
    for _ in clock.over("decode", [1, 2]):
        time.sleep(0.03)
    assert clock.seconds["decode"] < 0.02
