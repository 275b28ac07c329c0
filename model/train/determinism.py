"""Random state that a run must carry: one set of generators per rank."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int, rank: int, step: int = 0) -> None:
    """Seed Python, NumPy and torch (all devices) on this rank; ranks differ, so that their noise is independent.

    Weights must therefore be made before this call, from the seed alone. A run that goes on after ``step`` with another
    number of ranks has no state to put back and begins anew here; the gradient penalty is the only one to draw from it.
    """
    mixed = rank_seed(seed, rank, step)
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)


def rank_seed(seed: int, rank: int, step: int = 0) -> int:
    """Return the seed of one rank's generators from ``step`` on, in [0, 2^32)."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=(rank, step)).generate_state(1)[0])


def random_state() -> dict[str, Any]:
    """Return the state of every global generator of this process, as tensors and plain numbers; of GPUs, its own.

    It survives ``torch.save`` and ``torch.load(weights_only=True)``: no code is needed to read it.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }


def restore_random_state(state: dict[str, Any], *, otherwise: int) -> None:
    """Put back what ``random_state`` returned; a GPU that it holds nothing of is seeded with ``otherwise``."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        of_gpu = _of_this_gpu(state["cuda"])
        torch.cuda.manual_seed(otherwise) if of_gpu is None else torch.cuda.set_rng_state(of_gpu)
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _of_this_gpu(kept: Tensor | list[Tensor] | None) -> Tensor | None:
    """This rank's GPU state; older checkpoints hold those of all GPUs of its machine, which may have had fewer."""
    if not isinstance(kept, list):
        return kept
    index = torch.cuda.current_device()
    return kept[index] if index < len(kept) else None
