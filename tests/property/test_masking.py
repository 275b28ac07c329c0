"""Laws of masking, for all strategies, grids and ratios, against a word-for-word reading of the paper's method."""

from __future__ import annotations

import hashlib
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.masking import STRATEGIES, MaskStrategy, decoder_targets, make_mask, target_tokens, visible_tokens
from model.nets.config import TokenGrid

EYE, OTHER_EYE, NOSE, MOUTH, HAIR, SKIN, BACKGROUND = [2, 4], [3, 5], [6], [7, 8, 9], [10], [1], [0]
COMPONENTS = [EYE, OTHER_EYE, NOSE, MOUTH, HAIR]
GRID = TokenGrid(8, 14, 14)

grids = st.builds(TokenGrid, st.integers(1, 8), st.integers(2, 14), st.integers(2, 14))
ratios = st.one_of(st.sampled_from([0.5, 0.75, 0.9]), st.floats(0.05, 0.95))
seeds = st.integers(0, 2**63 - 1)


def regions(grid: TokenGrid, seed: int) -> np.ndarray:
    """Random region sets, (t, h, w): every patch has at least one label, and some tubelets have no face."""
    rng = np.random.default_rng(seed)
    likely = rng.random(11) ** 2
    bits = (rng.random((*grid, 11)) < likely) @ (1 << np.arange(11))
    bits[bits == 0] = 1 << int(rng.integers(11))
    bits[rng.random(grid.t) < 0.2] = 1  # background alone
    bits[rng.random(grid.t) < 0.1] = 0  # or nothing at all
    return bits


def mask_one(strategy: MaskStrategy, bits: np.ndarray, grid: TokenGrid, ratio: float, seed: int) -> np.ndarray:
    """Visible tokens of one clip, bool (t, h · w)."""
    hidden = make_mask(strategy, torch.from_numpy(bits)[None], grid, ratio, torch.tensor([seed]))
    return (~hidden[0]).numpy().reshape(grid.t, -1)


def is_possible(grid: TokenGrid, ratio: float) -> bool:
    return 0 < int(round(grid.tokens * (1 - ratio), 6)) < grid.tokens


def may_be_visible(bits_S: np.ndarray, queue: list[list[int]], ratio: float) -> set[int]:
    """Steps 2 and 4, literally: one tubelet's patches that the queue of visible groups leaves visible."""
    patches = [{label for label in range(11) if int(bits) >> label & 1} for bits in bits_S]
    if not any(labels - {0} for labels in patches):
        return set(range(len(patches)))
    visible: set[int] = set()
    for group in queue:
        for label in group:
            visible |= {place for place, labels in enumerate(patches) if label in labels}
            if len(visible) / len(patches) >= (1 - ratio) - 1e-9:
                return visible
    return visible


@given(st.sampled_from(STRATEGIES), grids, ratios, seeds)
@settings(deadline=None, max_examples=150)
def test_every_strategy_hides_the_same_number_on_every_grid_at_every_ratio(strategy, grid, ratio, seed):
    """Catches a mask that hides a wrong number of tokens: batches would not be rectangular."""
    if not is_possible(grid, ratio):
        with pytest.raises(ValueError, match="mask ratio"):
            mask_one(strategy, regions(grid, seed % 999), grid, ratio, seed)
        return
    visible = mask_one(strategy, regions(grid, seed % 999), grid, ratio, seed)
    assert visible.sum() == visible_tokens(grid, ratio) == int(round(grid.tokens * (1 - ratio), 6))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_released_recipe_leaves_156_of_1568_visible(strategy):
    """Catches 157, to which 1568 · (1 − 0.9) is rounded, and 156.8's ceiling."""
    assert mask_one(strategy, regions(GRID, 0), GRID, 0.9, 0).sum() == 156


@given(st.booleans(), grids, ratios, seeds)
@settings(deadline=None, max_examples=60)
def test_fasking_keeps_the_order_of_one_permutation_in_the_whole_clip(opposite, grid, ratio, seed):
    """Catches components shown before skin, groups mixed up, a permutation for each tubelet, and one label too many."""
    if not is_possible(grid, ratio):
        return
    bits = regions(grid, seed % 999)
    visible = mask_one("fasking_opposite" if opposite else "fasking", bits, grid, ratio, seed)
    shown = [set(np.flatnonzero(row)) for row in visible]
    flat = bits.reshape(grid.t, -1)

    def explains(order: tuple[list[int], ...]) -> bool:
        queue = [*order, SKIN, BACKGROUND] if opposite else [BACKGROUND, SKIN, *order]
        return all(shown[t] <= may_be_visible(flat[t], queue, ratio) for t in range(grid.t))

    assert any(explains(order) for order in permutations(COMPONENTS))


def face() -> np.ndarray:
    """A clip in which each group has patches of its own: 20 for every component, 40 of skin, 56 of background."""
    labels = [
        *[g[i % len(g)] for g in COMPONENTS for i in range(20)], *SKIN * 40, *BACKGROUND * 56,
    ]  # fmt: skip
    return np.broadcast_to(1 << np.array(labels).reshape(14, 14), (8, 14, 14)).copy()


def visible_groups(strategy: MaskStrategy, ratio: float, seed: int) -> set[int]:
    """Which groups of ``face`` are to be seen: 0 to 4 components in their order, 5 skin, 6 background."""
    group_of = {label: i for i, group in enumerate([*COMPONENTS, SKIN, BACKGROUND]) for label in group}
    labels = np.log2(face()).astype(int).reshape(8, -1)
    return {group_of[label] for label in labels[mask_one(strategy, face(), GRID, ratio, seed)].tolist()}


def test_at_90_percent_fasking_shows_background_and_its_opposite_one_component():
    """Catches the queue built from the wrong end: 20 of 196 patches are needed and the first group has them."""
    for seed in range(30):
        assert visible_groups("fasking", 0.9, seed) == {6}
        assert len(visible_groups("fasking_opposite", 0.9, seed)) == 1


def test_a_group_that_is_exactly_enough_is_shown_alone():
    """Catches 1 − 0.7, a little more than 0.3 in floating point: skin would be shown beside a background of 30 %."""
    grid = TokenGrid(2, 2, 5)
    bits = np.broadcast_to(1 << np.array([*BACKGROUND * 3, *SKIN * 7]).reshape(2, 5), grid).copy()
    for seed in range(5):
        assert mask_one("fasking", bits, grid, 0.7, seed).tolist() == [[True] * 3 + [False] * 7] * 2


def test_every_component_is_hidden_last_now_and_then():
    """Catches a fixed priority: background, skin and exactly one component are needed for half of the patches."""
    chosen = [visible_groups("fasking", 0.45, seed) - {5, 6} for seed in range(60)]
    assert all(len(groups) == 1 for groups in chosen)
    assert {next(iter(groups)) for groups in chosen} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("strategy", ["fasking", "fasking_opposite"])
@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_a_clip_without_a_face_is_masked_at_random(strategy, ratio):
    """Catches a fallback that shows the first patches, or nothing: each token must be visible as often as any other."""
    grid = TokenGrid(4, 6, 6)
    found = np.mean([mask_one(strategy, np.zeros(grid, int), grid, ratio, seed) for seed in range(400)], axis=0)
    share = visible_tokens(grid, ratio) / grid.tokens
    assert np.abs(found - share).max() < 4.5 * math.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize("strategy", ["fasking", "fasking_opposite"])
def test_a_tubelet_without_a_face_among_others_is_all_visible_before_the_trim(strategy):
    """Catches a tubelet without any label that stays hidden: it has 196 of the candidates, its neighbours 20 or 56."""
    bits = face()
    bits[3] = 0
    shown = np.mean([mask_one(strategy, bits, GRID, 0.9, seed).sum(axis=1) for seed in range(40)], axis=0)
    others = 56 if strategy == "fasking" else 20
    assert shown[3] == pytest.approx(156 * 196 / (196 + 7 * others), rel=0.1)


@given(grids, ratios, seeds)
@settings(deadline=None, max_examples=60)
def test_tube_and_frame_show_a_part_of_as_many_patches_and_tubelets_as_the_ratio_asks_for(grid, ratio, seed):
    """Catches patches that differ between tubelets, and tubelets that are half shown beside hidden ones."""
    if not is_possible(grid, ratio):
        return
    none = np.zeros(grid, int)
    patches = grid.h * grid.w
    tube, frame = (mask_one(strategy, none, grid, ratio, seed) for strategy in ("tube", "frame"))
    assert tube.any(axis=0).sum() <= math.ceil(round(patches * (1 - ratio), 6))
    assert frame.any(axis=1).sum() <= math.ceil(round(grid.t * (1 - ratio), 6))


def test_tube_and_frame_at_90_percent_are_trimmed_from_20_patches_and_one_tubelet():
    """As released, tube keeps 20 shared patches (160 tokens) and frame one tubelet (196), both trimmed to 156."""
    tube, frame = (mask_one(strategy, face(), GRID, 0.9, 3) for strategy in ("tube", "frame"))
    assert tube.any(axis=0).sum() == 20
    assert frame.any(axis=1).sum() == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_mask_depends_on_its_own_seed_and_regions_alone(strategy):
    """Catches a generator shared by a batch, and strategies without faces that look at regions."""
    maps = [regions(GRID, seed) for seed in range(4)]
    batch = make_mask(strategy, torch.from_numpy(np.stack(maps)), GRID, 0.9, torch.arange(4))
    assert len({row.numpy().tobytes() for row in batch}) == 4
    for seed in (3, 1):
        assert np.array_equal(~batch[seed].numpy().reshape(8, -1), mask_one(strategy, maps[seed], GRID, 0.9, seed))
    if not strategy.startswith("fasking"):
        assert np.array_equal(mask_one(strategy, maps[0], GRID, 0.9, 1), mask_one(strategy, maps[1], GRID, 0.9, 1))


@given(st.sampled_from(STRATEGIES), grids, ratios, st.sampled_from([0.25, 0.5, 0.9]) | st.floats(0.01, 0.95), seeds)
@settings(deadline=None, max_examples=80)
def test_the_decoder_s_targets_are_hidden_tokens_and_as_many_in_every_clip(strategy, grid, ratio, left_out, seed):
    """Catches a target that the encoder has seen (the loss would be splendid), and batches that are not rectangular."""
    if not is_possible(grid, ratio):
        return
    maps = torch.from_numpy(np.stack([regions(grid, (seed + i) % 999) for i in range(3)]))
    seeds_B = torch.tensor([seed, seed // 2, 7])
    is_masked_BL = make_mask(strategy, maps, grid, ratio, seeds_B)
    hidden = grid.tokens - visible_tokens(grid, ratio)
    if int(round(hidden * (1 - left_out), 6)) == 0:
        with pytest.raises(ValueError, match="decoder ratio"):
            decoder_targets(is_masked_BL, grid, left_out, seeds_B)
        return
    is_target_BL = decoder_targets(is_masked_BL, grid, left_out, seeds_B)
    assert not (is_target_BL & ~is_masked_BL).any()
    assert set(is_target_BL.sum(dim=1).tolist()) == {target_tokens(hidden, left_out)}
    alone = decoder_targets(is_masked_BL[1:2], grid, left_out, seeds_B[1:2])
    assert torch.equal(alone[0], is_target_BL[1])


def test_half_of_each_cell_runs_on_with_every_tubelet():
    """Catches cells that stand still: half of the face would never be learnt. All are hidden, so none is trimmed."""
    is_masked_BL = torch.ones(1, GRID.tokens, dtype=torch.bool)
    target_THW = decoder_targets(is_masked_BL, GRID, 0.5, torch.tensor([3]))[0].reshape(GRID).numpy()
    cells = target_THW.reshape(8, 7, 2, 7, 2)
    assert (cells.sum(axis=(2, 4)) == 2).all()
    assert (target_THW[:4].sum(axis=0) == 2).all()
    assert (target_THW[0] != target_THW[1]).sum() == 98  # of the two kept places of a cell one stays and one moves on
    assert (target_THW[4:] == target_THW[:4]).all()


def test_without_a_decoder_ratio_all_hidden_tokens_are_targets():
    is_masked_BL = make_mask("tube", torch.zeros(2, *GRID, dtype=torch.int32), GRID, 0.9, torch.arange(2))
    assert torch.equal(decoder_targets(is_masked_BL, GRID, 0.0, torch.arange(2)), is_masked_BL)


def test_the_masks_are_the_ones_that_old_checkpoints_were_trained_with():
    """Masks are part of a run: a change of library or code that alters them must not pass unnoticed."""
    found = {s: hashlib.sha256(mask_one(s, face(), GRID, 0.9, 7).tobytes()).hexdigest()[:16] for s in STRATEGIES}
    assert found == MASKS


def test_the_targets_are_the_ones_that_old_checkpoints_were_trained_with():
    """Catches targets drawn with the numbers that drew the mask, and any other change to runs that go on."""
    hidden = make_mask("fasking", torch.from_numpy(face())[None], GRID, 0.9, torch.tensor([7]))
    targets = decoder_targets(hidden, GRID, 0.5, torch.tensor([7]))
    assert hashlib.sha256(targets.numpy().tobytes()).hexdigest()[:16] == "28bed4755e4aa0f3"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"strategy": "tubes"}, "unknown mask strategy"),
        ({"ratio": 1.0}, "leaves 0 of 1568"),
        ({"ratio": 0.0}, "leaves 1568"),
        ({"regions": (1, 8, 7, 7)}, "the batch needs"),
    ],
)
def test_what_cannot_be_masked_is_refused(change, sentence):
    """Catches a region map of another grid that numpy would broadcast."""
    maps = torch.ones(change.get("regions", (1, 8, 14, 14)), dtype=torch.int32)
    with pytest.raises(ValueError, match=sentence):
        make_mask(change.get("strategy", "fasking"), maps, GRID, change.get("ratio", 0.9), torch.tensor([0]))


MASKS = {
    "fasking": "f759ea21e1057744", "fasking_opposite": "7c9adbb10aab7337", "frame": "3ccc1456a2a5b17a",
    "random": "fff40438b9604384", "tube": "1534befad6d84e8f",
}  # fmt: skip
