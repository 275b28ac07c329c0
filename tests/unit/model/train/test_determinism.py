"""Random state: everything is put back, and reading it runs no code."""

import random

import numpy as np
import pytest
import torch

from model.train.determinism import random_state, restore_random_state, seed_everything


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(np.random.randn()), torch.rand(1).item()]


def test_all_generators_go_on_where_they_were(tmp_path):
    """Catches one of the three left out, and NumPy's cached second normal number."""
    seed_everything(3, rank=0)
    draws()
    torch.save(random_state(), tmp_path / "rng.pt")
    expected = draws()
    seed_everything(9, rank=0)
    assert draws() != expected
    restore_random_state(torch.load(tmp_path / "rng.pt", weights_only=True), otherwise=0)
    assert draws() == expected


def test_ranks_draw_differently_and_repeatably():
    seed_everything(3, rank=0)
    first = draws()
    seed_everything(3, rank=1)
    assert draws() != first
    seed_everything(3, rank=0)
    assert draws() == first


class TwoGpus:
    """The generators of a machine with two GPUs, of which this process uses the second."""

    def __init__(self) -> None:
        self.states = [torch.tensor([10]), torch.tensor([11])]
        self.seeds: list[int] = []

    def set_rng_state(self, state: torch.Tensor) -> None:
        self.states[1] = state


@pytest.fixture
def gpus(monkeypatch) -> TwoGpus:
    """Stand in for CUDA, which a CPU has not."""
    found = TwoGpus()
    for name, stand_in in {
        "is_available": lambda: True,
        "current_device": lambda: 1,
        "device_count": lambda: 2,
        "get_rng_state": lambda: found.states[1],
        "get_rng_state_all": lambda: list(found.states),
        "set_rng_state": found.set_rng_state,
        "manual_seed": found.seeds.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return found


def test_a_gpu_goes_on_on_a_machine_with_another_number_of_gpus(gpus, monkeypatch, tmp_path):
    """Catches eight ranks of one machine that go on as four of two, and begin their noise anew without a word."""
    torch.save(random_state(), tmp_path / "rng.pt")
    gpus.states = [torch.tensor([0])]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: gpus.states.__setitem__(0, state))
    restore_random_state(torch.load(tmp_path / "rng.pt", weights_only=True), otherwise=5)
    assert gpus.states == [torch.tensor([11])]
    assert gpus.seeds == []


@pytest.mark.parametrize(
    ("kept", "state", "seeds"),
    [
        ([torch.tensor([20]), torch.tensor([21]), torch.tensor([22])], 21, []),
        ([torch.tensor([20])], 11, [5]),
        ([], 11, [5]),
        (None, 11, [5]),
    ],
)
def test_an_older_checkpoint_gives_this_gpus_state_or_a_new_seed(gpus, kept, state, seeds):
    """Catches a list that is refused, another GPU's state, and a GPU that repeats the noise of the first step."""
    restore_random_state(random_state() | {"cuda": kept}, otherwise=5)
    assert gpus.states == [torch.tensor([10]), torch.tensor([state])]
    assert gpus.seeds == seeds
