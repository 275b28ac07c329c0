"""Which tokens are hidden: Fasking and the other strategies (METHOD, section 6). Pure, seeded by clip, batched.

A clip's mask depends on its own seed and region map alone, never on the batch it travels in. Shapes: B clips, t × h × w
tokens, L = t·h·w. ``is_masked_BL`` is True where a token is hidden; all strategies leave ``visible_tokens`` visible.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from model.nets.config import TokenGrid
from model.train_config import MaskStrategy
from pipeline.faces.regions import GROUPS

STRATEGIES: tuple[MaskStrategy, ...] = get_args(MaskStrategy)

COMPONENTS = tuple(GROUPS[name] for name in ("left eye", "right eye", "nose", "mouth", "hair"))
"""LaPa labels of the five components: each eye with its brow, nose, mouth, hair."""
SKIN, BACKGROUND = GROUPS["skin"], GROUPS["background"]


def visible_tokens(grid: TokenGrid, ratio: float) -> int:
    """Return how many tokens stay visible: int(L · (1 − ratio)), 156 of 1,568 at 0.9.

    Raises:
        ValueError: the ratio would hide no token or all of them.
    """
    # rounded first, so that 1568 · (1 − 0.9) is 156.8 and not a neighbour that a float error pushed over an integer
    count = int(round(grid.tokens * (1 - ratio), 6))
    if not 0 < count < grid.tokens:
        raise ValueError(f"mask ratio {ratio} leaves {count} of {grid.tokens} tokens visible; take one in between")
    return count


def make_mask(
    strategy: MaskStrategy, region_bits_BThw: Tensor, grid: TokenGrid, ratio: float, seeds_B: Tensor
) -> Tensor:
    """Choose the hidden tokens of each clip.

    Args:
        strategy: one of ``STRATEGIES``.
        region_bits_BThw: integer (B, t, h, w), the LaPa labels in each patch of each tubelet's first frame, bit b for
            label b; 0 everywhere in a tubelet means that it has no face. Only the two Fasking strategies read it.
        grid: tokens in time, height and width.
        ratio: share of hidden tokens, in (0, 1).
        seeds_B: int64 (B,), one seed a clip.

    Returns:
        is_masked_BL: bool (B, L), the same number hidden in every row.

    Raises:
        ValueError: unknown strategy, impossible ratio, or shapes that do not fit.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown mask strategy '{strategy}'; known: {', '.join(STRATEGIES)}")
    if tuple(region_bits_BThw.shape) != (len(seeds_B), *grid):
        raise ValueError(f"region map is {tuple(region_bits_BThw.shape)}; the batch needs {(len(seeds_B), *grid)}")
    bits_BThw = region_bits_BThw.cpu().numpy().astype(np.int64)
    masks = [
        _clip_mask(strategy, bits_Thw, grid, ratio, np.random.default_rng(int(seed)))
        for bits_Thw, seed in zip(bits_BThw, seeds_B.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(masks))


def _clip_mask(
    strategy: MaskStrategy, bits_Thw: np.ndarray, grid: TokenGrid, ratio: float, rng: np.random.Generator
) -> np.ndarray:
    keep = visible_tokens(grid, ratio)
    visible_TS = np.ones((grid.t, grid.h * grid.w), dtype=bool)
    if strategy == "tube":
        patches = grid.h * grid.w
        shared = rng.permutation(patches)[: _ceil(patches * (1 - ratio))]
        visible_TS = np.zeros_like(visible_TS)
        visible_TS[:, shared] = True
    elif strategy == "frame":
        visible_TS = np.zeros_like(visible_TS)
        visible_TS[rng.permutation(grid.t)[: _ceil(grid.t * (1 - ratio))]] = True
    elif strategy != "random":
        queue = _visible_queue(strategy, rng)
        visible_TS = _facial_visible(bits_Thw.reshape(grid.t, -1), queue, ratio)
    return ~_trim(visible_TS.reshape(-1), keep, rng)


def _visible_queue(strategy: MaskStrategy, rng: np.random.Generator) -> list[int]:
    """Return the labels in the order in which they become visible.

    Masking priority: the permuted components, then skin, background last; the visible set is built from its other end.
    """
    components = [COMPONENTS[i] for i in rng.permutation(len(COMPONENTS))]
    masking = [*components, SKIN, BACKGROUND]
    if strategy == "fasking_opposite":
        masking = [BACKGROUND, SKIN, *components]
    return [label for group in reversed(masking) for label in group]


def _facial_visible(bits_TS: np.ndarray, queue: list[int], ratio: float) -> np.ndarray:
    """Return visible_TS: labels are added one at a time until at least 1 − ratio of a tubelet's patches are visible.

    A tubelet without a face (no bits but background, or none at all) is all-visible, so that trimming makes it random.
    """
    steps = np.stack([(bits_TS >> label) & 1 for label in queue]).astype(bool)  # (labels, T, S)
    seen = np.logical_or.accumulate(steps, axis=0)
    enough = seen.mean(axis=2) >= (1 - ratio) - 1e-9  # (labels, T)
    # a patch has at least one label, so all labels together are always enough
    visible_TS = seen[enough.argmax(axis=0), np.arange(len(bits_TS))]
    no_face_T = ~(bits_TS & ~1).any(axis=1)
    visible_TS[no_face_T] = True
    return visible_TS


def _trim(visible_L: np.ndarray, keep: int, rng: np.random.Generator) -> np.ndarray:
    """Hide visible tokens at random until ``keep`` are left; where too few are visible, show hidden ones at random."""
    surplus = int(visible_L.sum()) - keep
    candidates = np.flatnonzero(visible_L if surplus > 0 else ~visible_L)
    changed = visible_L.copy()
    changed[rng.permutation(candidates)[: abs(surplus)]] = surplus < 0
    return changed


def _ceil(value: float) -> int:
    return int(np.ceil(round(value, 6)))
