import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.faces.regions import GROUPS, Region, coarsen, to_bits


def test_the_groups_are_the_papers_and_hold_every_label_once():
    assert [tuple(map(int, group)) for group in GROUPS.values()] == [
        (2, 4), (3, 5), (6,), (7, 8, 9), (10,), (1,), (0,)
    ]  # fmt: skip
    assert sorted(region for group in GROUPS.values() for region in group) == list(Region)


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, (2, 16, 24), elements=st.integers(0, 10)))
def test_a_bit_is_set_exactly_where_its_label_occurs(maps):
    bits = to_bits(maps)
    assert bits.dtype == np.uint16
    assert bits.shape == (2, 2, 3)
    for r, row, column in np.ndindex(bits.shape):
        cell = maps[r, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
        assert {label for label in range(16) if bits[r, row, column] >> label & 1} == set(cell.ravel().tolist())


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, (1, 32, 32), elements=st.integers(0, 10)))
def test_coarse_cells_are_those_of_a_coarser_grid(maps):
    """Coarsening by 2 must equal reading 16x16 patches from the picture."""
    coarse = coarsen(to_bits(maps), 2)
    patches = maps.reshape(1, 2, 16, 2, 16).swapaxes(2, 3).reshape(1, 2, 2, 256)
    expected = np.bitwise_or.reduce(np.uint16(1) << patches.astype(np.uint16), axis=-1)
    assert np.array_equal(coarse, expected)


def test_one_pixel_is_enough_and_rows_are_not_columns():
    maps = np.zeros((1, 224, 224), np.uint8)
    maps[0, 223, 0] = Region.NOSE
    bits = to_bits(maps)
    assert bits.shape == (1, 28, 28)
    assert bits[0, 27, 0] == 1 << Region.NOSE | 1
    assert (bits == 1).sum() == 28 * 28 - 1


def test_no_maps_are_fine_and_wrong_ones_are_refused():
    assert to_bits(np.zeros((0, 224, 224), np.uint8)).shape == (0, 28, 28)
    for wrong in (np.full((1, 8, 8), 11, np.uint8), np.zeros((1, 9, 8), np.uint8), np.zeros((1, 8, 8), int)):
        with pytest.raises(ValueError, match="label"):
            to_bits(wrong)
    with pytest.raises(ValueError, match="coarsened"):
        coarsen(np.zeros((1, 28, 28), np.uint16), 3)
