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
    with pytest.raises(KeyError), clock("crop"):
        time.sleep(0.01)
        raise KeyError
    assert clock.seconds["decode"] >= 0.04
    assert clock.seconds["crop"] >= 0.01


def test_the_consumers_time_is_not_the_stages():
    clock = StageClock()
    for _ in clock.over("decode", [1, 2]):
        time.sleep(0.03)
    assert clock.seconds["decode"] < 0.02
