"""Self-blended clips: what they may change, and that they change nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from model.adapt.self_blend import FACE_BITS, Tone, blend, blend_mask, draw_blend, has_face, self_blend

SIDE = 224


def _regions(maps: int = 8, shift: int = 0) -> np.ndarray:
    y, x = np.mgrid[0:28, 0:28]
    regions = np.ones((maps, 28, 28), np.uint16)
    regions[:, ((x - 13 - shift) / 8) ** 2 + ((y - 14) / 10) ** 2 < 1] |= 1 << 1
    regions[:, 10:12, 9 + shift : 18 + shift] |= 0b110100
    regions[:, 17:19, 11 + shift : 16 + shift] |= 1 << 7
    return regions


def _frames(count: int = 4) -> np.ndarray:
    rng = np.random.default_rng(3)
    base = rng.integers(60, 200, (count, 14, 14, 3), dtype=np.uint8)
    return base.repeat(16, axis=1).repeat(16, axis=2)


def test_the_same_seed_gives_the_same_pair_and_another_seed_another():
    """Catches a draw that comes from global random state: test clips would differ from run to run."""
    first, again, other = (self_blend(_frames(), _regions(), seed) for seed in (5, 5, 6))
    assert np.array_equal(first.fake_THWC, again.fake_THWC)
    assert np.array_equal(first.real_THWC, again.real_THWC)
    assert not np.array_equal(first.fake_THWC, other.fake_THWC)


@pytest.mark.parametrize("seed", range(6))
def test_with_an_opacity_of_zero_real_and_fake_are_bit_identical(seed):
    """Catches a processing step that only one of the two gets: the detector would learn that shortcut."""
    pair = blend(_frames(), _regions(), range(4), replace(draw_blend(seed), ratio=0.0))
    assert np.array_equal(pair.real_THWC, pair.fake_THWC)


@pytest.mark.parametrize("seed", range(6))
def test_real_and_fake_differ_inside_the_mask_only(seed):
    """Catches a blend that touches hair and background (JPEG's blocks of 16 pixels are given room)."""
    draw = replace(draw_blend(seed), ratio=1.0, area=FACE_BITS, jpeg=100)
    pair = blend(_frames(), _regions(), range(4), draw)
    difference = np.abs(pair.real_THWC.astype(int) - pair.fake_THWC).max(axis=(0, 3))
    assert difference[:16].max() <= 3
    assert difference[:, :16].max() <= 3
    assert difference[SIDE // 2 - 40 : SIDE // 2 + 40, SIDE // 2 - 40 : SIDE // 2 + 40].mean() > 1


def test_a_still_clip_with_still_regions_stays_still():
    """Catches a draw per frame instead of per clip: flicker alone would give every fake away."""
    frames = np.repeat(_frames(1), 5, axis=0)
    pair = self_blend(frames, _regions(), 11, [0, 2, 4, 6, 8])
    assert np.array_equal(pair.fake_THWC[0], pair.fake_THWC[-1])


def test_the_mask_follows_the_region_map_of_its_own_frame():
    """Catches region maps shifted against frames: entry r belongs to frame 4r, and frames between are interpolated."""
    regions = np.concatenate([_regions(4, -3), _regions(4, 3)])
    draw = replace(draw_blend(0), area=FACE_BITS, hull=False, mask_elastic=0.0, ratio=1.0)
    mask_THW = blend_mask(regions, [0, 14, 28], (SIDE, SIDE), draw)
    columns = [(m.sum(axis=0) * np.arange(SIDE)).sum() / m.sum() for m in mask_THW]
    assert columns[0] + 10 < columns[1] < columns[2] - 10
    assert columns[2] - columns[0] == pytest.approx(6 * 8, abs=3)


def test_maps_without_a_face_take_the_nearest_that_has_one():
    """Catches a fake whose blend vanishes in frames where the parser found nothing."""
    regions = _regions(8)
    regions[3:5] = 1
    mask_THW = blend_mask(regions, [0, 14, 28], (SIDE, SIDE), draw_blend(0))
    assert mask_THW[1].sum() == pytest.approx(mask_THW[0].sum(), rel=0.01)


def test_the_mask_is_an_opacity():
    """Catches masks outside [0, 1] or harder than the paper's soft edge."""
    for seed in range(20):
        draw = draw_blend(seed)
        mask_THW = blend_mask(_regions(), range(0, 32, 8), (SIDE, SIDE), draw)
        assert mask_THW.dtype == np.float32
        assert mask_THW.min() >= 0
        assert mask_THW.max() <= draw.ratio + 1e-6
        assert mask_THW.max() > 0.99 * draw.ratio
        assert np.abs(np.diff(mask_THW, axis=2)).max() < 0.5


def test_even_the_smallest_area_makes_a_visible_fake():
    """Catches a mask that fades away under its blurs: a clip labelled fake that shows nothing."""
    regions = np.ones((8, 28, 28), np.uint16)
    regions[:, 20, 14] |= 1 << 7
    for seed in range(10):
        draw = replace(draw_blend(seed), ratio=1.0, tone=Tone(shift_C=(40.0, 0.0, 0.0)))
        pair = blend(_frames(), regions, range(4), draw)
        assert np.abs(pair.real_THWC.astype(int) - pair.fake_THWC).max() > 20


def test_a_clip_without_a_face_is_refused():
    """Catches a silent fake that is no fake: label noise."""
    nothing = np.ones((8, 28, 28), np.uint16)
    assert not has_face(nothing)
    assert has_face(_regions())
    with pytest.raises(ValueError, match="shows a face"):
        self_blend(_frames(), nothing, 0)
    with pytest.raises(ValueError, match="uint8"):
        self_blend(_frames().astype(np.float32), _regions(), 0)
    with pytest.raises(ValueError, match="do not fit"):
        self_blend(_frames(), _regions(), 0, [0, 1])


def test_a_neutral_tone_changes_nothing():
    """Catches a colour matrix whose rows and columns are swapped or do not sum to one."""
    from model.adapt.self_blend import change_tone

    frame = _frames(1)[0].astype(np.float32)
    assert np.allclose(change_tone(frame, Tone()), frame, atol=1e-3)
    grey = np.full((8, 8, 3), 100, np.float32)
    assert np.allclose(change_tone(grey, Tone(saturation=0.3)), grey, atol=1e-3)
    assert np.allclose(change_tone(grey, Tone(shift_C=(10, 0, -10), gain=1.1)), [120, 110, 100], atol=1e-3)
