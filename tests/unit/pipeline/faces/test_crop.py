import cv2
import numpy as np
import pytest

from pipeline.faces.crop import blur_and_exposure, crop_square


@pytest.fixture(scope="module")
def ramp():
    """A frame whose red is its column and whose green is its row."""
    y, x = np.mgrid[0:256, 0:256]
    return np.stack([x, y, np.full_like(x, 50)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 100.5, 150, 199])
@pytest.mark.parametrize("size", [64, 224])
def test_the_crop_shows_the_place_that_was_asked_for(ramp, side, size):
    """To the pixel of the source; a frame read at the wrong offset or with rows for columns is far off."""
    x0, y0 = 13.0, 21.0
    crop = crop_square(ramp, np.array([x0, y0, x0 + side, y0 + side]), size).astype(float)
    places = (np.arange(size) + 0.5) * side / size - 0.5
    inner = slice(size // 10, -size // 10)
    assert np.abs(crop[:, :, 0].mean(axis=0) - (x0 + places))[inner].max() < 0.9
    assert np.abs(crop[:, :, 1].mean(axis=1) - (y0 + places))[inner].max() < 0.9
    if side <= size:
        assert abs((crop[:, :, 0].mean(axis=0) - (x0 + places))[inner].mean()) < 0.1  # no half pixel lost


def test_growing_crops_move_by_fractions_of_a_pixel(ramp):
    """Rounding to whole pixels would shake an enlarged face: 7 pixels of the crop for one of a 32-pixel face."""
    a, b = (crop_square(ramp, np.array([50 + d, 50, 82 + d, 82]), 224)[:, :, 0].astype(float) for d in (0.0, 0.5))
    assert (b - a).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("side", [60, 150])
def test_outside_the_frame_is_black(side):
    white = np.full((100, 100, 3), 255, np.uint8)
    crop = crop_square(white, np.array([-side / 2, -side / 2, side / 2, side / 2]), 100)
    assert crop[:48, :].max() == 0
    assert crop[:, :48].max() == 0
    assert crop[55:65, 55:65].min() == 255


@pytest.mark.parametrize("square", [(500, 500, 800, 800), (-300, 0, -10, 290), (10, 10, 10, 10)])
def test_squares_beyond_the_frame_or_without_size_are_no_error(square):
    assert crop_square(np.full((100, 100, 3), 255, np.uint8), np.array(square), 224).shape == (224, 224, 3)


def test_blur_and_exposure_tell_sharp_from_soft_and_dark_from_bright():
    sharp = np.random.default_rng(0).integers(60, 120, (224, 224, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(sharp, (0, 0), 4)
    assert blur_and_exposure(sharp)[0] > 50 * blur_and_exposure(soft)[0]
    assert blur_and_exposure(np.full((8, 8, 3), 200, np.uint8)) == (0.0, 200.0)
