"""Speed is counted over the steps between two readings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from model.train.meter import Meter, measure_peak, total_peak


@pytest.fixture(autouse=True)
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_numbers_are_of_the_steps_since_the_last_reading():
    """Catches a wait of one step given out as that of all, and a meter that never begins again."""
    meter = Meter(torch.device("cpu"), clips=8, clip_flops=1e9, peak=4e10)
    meter.add(3.0, waited=1.0)
    meter.add(1.0, waited=0.0)
    found = meter.read()
    assert (found["data/clips(1/s)"], found["time/step(s)"], found["time/data_wait(%)"]) == (4.0, 2.0, 25.0)
    assert (found["speed/achieved(TFLOP/s)"], found["speed/mfu(%)"]) == (pytest.approx(0.004), pytest.approx(10.0))
    assert 0.01 < found["memory/peak(GiB)"] < 100
    meter.add(1.0, waited=0.0)
    assert meter.read()["data/clips(1/s)"] == 8.0


def test_a_given_peak_is_taken_and_not_measured():
    assert total_peak(torch.device("cpu"), torch.float32, 2.5) == 2.5e12


def test_a_peak_is_measured_in_flops_a_second():
    """Catches microseconds taken for seconds."""
    assert 1e8 < measure_peak(torch.device("cpu"), torch.float32) < 1e14
