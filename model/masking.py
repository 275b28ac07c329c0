"""Which tokens are hidden: Fasking and the other strategies (Cai et al., CVPR 2023). Pure, seeded by clip, batched.

And which of the hidden ones the decoder predicts: all of them in the paper. A clip's mask depends on its own seed and
region map alone, never on the batch it travels in. Shapes: B clips, t × h × w tokens, L = t·h·w.
``is_masked_BL`` is True where a token is hidden; all strategies leave ``visible_tokens`` visible.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from infra.errors import ConfigError
from model.nets.config import TokenGrid
from model.train_config import MaskConfig, MaskStrategy
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


def check_mask(grid: TokenGrid, mask: MaskConfig) -> None:
    """Refuse settings that hide no token or all, or leave none to predict, before any work is done with them.

    Raises:
        ConfigError: which setting, and the cure.
    """
    try:
        target_tokens(grid.tokens - visible_tokens(grid, mask.ratio), mask.decoder_ratio)
    except ValueError as error:
        raise ConfigError(f"mask.ratio, mask.decoder_ratio: {error}") from error


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


def decoder_targets(is_masked_BL: Tensor, grid: TokenGrid, ratio: float, seeds_B: Tensor) -> Tensor:
    """Choose the hidden tokens that the decoder predicts, by a running cell; the others it never sees.

    Args:
        is_masked_BL: bool (B, L), as ``make_mask`` returns it.
        grid: tokens in time, height and width.
        ratio: share of the hidden tokens left out, in [0, 1); 0 predicts all of them, as MARLIN does.
        seeds_B: int64 (B,), one seed a clip.

    Returns:
        is_target_BL: bool (B, L), a part of ``is_masked_BL``, ``target_tokens`` in every row.

    Source: VideoMAE V2 (Wang et al., 2023, arXiv:2303.16727), section 3.2: of each cell of 2 × 2 patches some are kept,
    and which ones moves on by one with every tubelet, so that all places are learnt. Differs: trimmed at random to one
    number, since Fasking hides another pattern in every clip (V2's encoder masks are tubes).
    """
    if ratio == 0:
        return is_masked_BL
    hidden_BL = is_masked_BL.cpu().numpy()
    keep = target_tokens(int(hidden_BL[0].sum()), ratio)
    targets = [
        _clip_targets(hidden_L, grid, ratio, keep, np.random.default_rng([int(seed), 1]))
        for hidden_L, seed in zip(hidden_BL, seeds_B.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(targets))


def target_tokens(hidden: int, ratio: float) -> int:
    """Return how many of ``hidden`` tokens are predicted: int(hidden · (1 − ratio)).

    Raises:
        ValueError: none would be.
    """
    count = int(round(hidden * (1 - ratio), 6))
    if count < 1:
        raise ValueError(f"decoder ratio {ratio} leaves none of {hidden} hidden tokens to predict; take a smaller one")
    return count


def _clip_targets(
    hidden_L: np.ndarray, grid: TokenGrid, ratio: float, keep: int, rng: np.random.Generator
) -> np.ndarray:
    t_L, h_L, w_L = (axis.reshape(-1) for axis in np.indices(grid))
    clockwise_L = np.array([[0, 1], [3, 2]])[h_L % 2, w_L % 2]
    kept_L = (clockwise_L + t_L + rng.integers(4)) % 4 < _ceil(4 * (1 - ratio))
    return _trim(hidden_L & kept_L, hidden_L, keep, rng)


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
    return ~_trim(visible_TS.reshape(-1), np.ones(grid.tokens, dtype=bool), keep, rng)


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


def _trim(chosen_L: np.ndarray, pool_L: np.ndarray, keep: int, rng: np.random.Generator) -> np.ndarray:
    """Drop chosen tokens at random until ``keep`` are left; where too few are, add some of the pool at random."""
    surplus = int(chosen_L.sum()) - keep
    candidates = np.flatnonzero(chosen_L if surplus > 0 else pool_L & ~chosen_L)
    changed = chosen_L.copy()
    changed[rng.permutation(candidates)[: abs(surplus)]] = surplus < 0
    return changed


def _ceil(value: float) -> int:
    return int(np.ceil(round(value, 6)))
