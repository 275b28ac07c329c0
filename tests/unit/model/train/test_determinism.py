"""Random state: everything is put back, and reading it runs no code."""

import random

import numpy as np
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
    restore_random_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draws() == expected


def test_ranks_draw_differently_and_repeatably():
    seed_everything(3, rank=0)
    first = draws()
    seed_everything(3, rank=1)
    assert draws() != first
    seed_everything(3, rank=0)
    assert draws() == first
